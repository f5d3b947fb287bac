/* Runs the programs of a launch, one after the other: control flow, barriers, the clock, and late stores. */
#include "machine.h"

/* --- the memory of late stores -------------------------------------------------------------------------- */

static void make_visible(Store *store) {
  memcpy((void *)store->address, store->value, store->bytes);
  store->done = 1;
}

/* The log has a run for each program. */
static uint64_t start_of_run(const State *state, uint64_t end) {
  uint64_t start = end;
  while (start > 0 && state->stores[start - 1].program == state->stores[end - 1].program) start--;
  return start;
}
static uint64_t own_stores(const State *state) {
  uint64_t end = state->num_stores;
  return end && state->stores[end - 1].program == state->program ? start_of_run(state, end) : end;
}

/* A fence of a warp: of its own stores, and of all others that a barrier has ordered before it. */
static void fence(State *state, const Warp *warp) {
  for (uint64_t i = own_stores(state); i < state->num_stores; i++) {
    Store *store = &state->stores[i];
    if (!store->done && (store->warp == ANY_WARP || store->warp == warp->index)) make_visible(store);
  }
}

/* All warps of the program have met. */
static void order_stores(State *state) {
  for (uint64_t i = own_stores(state); i < state->num_stores; i++) state->stores[i].warp = ANY_WARP;
}

/* Forget what is visible, so that a fence has less to look through. Stores of a program stay in order. */
static void forget_visible_stores(State *state) {
  uint64_t left = 0;
  for (uint64_t i = 0; i < state->num_stores; i++)
    if (!state->stores[i].done) state->stores[left++] = state->stores[i];
  state->num_stores = left;
}

static uint64_t random_below(State *state, uint64_t bound) {
  state->random = state->random * 6364136223846793005u + 1442695040888963407u;
  return (state->random >> 33) % bound;
}

/* --- predicates and the clock --------------------------------------------------------------------------- */

static inline uint32_t lanes_with(const Warp *w, Predicate predicate, uint32_t lanes) {
  switch (predicate.kind) {
    case ALWAYS: return lanes;
    case OF_LANES: return lanes & (predicate.negated ? ~w->p[predicate.number] : w->p[predicate.number]);
    case OF_WARP: return (((w->up >> predicate.number) & 1u) ^ predicate.negated) ? lanes : 0;
    default: return 0;
  }
}

static inline void wait_for_scoreboards(State *state, Warp *w, const Instruction *self) {
  for (int i = 0; i < 6; i++)
    if ((self->waits >> i) & 1 && w->scoreboard[i] > w->time) {
      if (state->counts.stalled) state->counts.stalled[self->index] += w->scoreboard[i] - w->time;
      w->time = w->scoreboard[i];
    }
}

/* --- divergence ----------------------------------------------------------------------------------------- */

static void add_path(State *state, Warp *w, uint32_t place, uint32_t lanes, int waits_for, uint32_t needed,
                     const Instruction *self) {
  if (w->num_paths == MAX_PATHS) fail(state, "too many paths of one warp", self);
  w->paths[w->num_paths++] = (Path){place, lanes, needed, waits_for};
}

/* Let lanes go on whose others have arrived. */
static void release_paths(Warp *w) {
  for (int i = 0; i < w->num_paths; i++) {
    Path *path = &w->paths[i];
    if (path->waits_for == NOTHING || path->waits_for == PROGRAM) continue;
    int waits_for = path->waits_for;
    uint32_t place = path->place, arrived = 0;
    uint32_t needed = (waits_for < NUM_CONVERGENCE_BARRIERS ? w->convergence[waits_for] : path->needed) & ~w->exited;
    for (int j = 0; j < w->num_paths; j++)
      if (w->paths[j].waits_for == waits_for && w->paths[j].place == place) arrived |= w->paths[j].lanes;
    if ((arrived & needed) != needed) continue;
    for (int j = 0; j < w->num_paths; j++)
      if (w->paths[j].waits_for == waits_for && w->paths[j].place == place) w->paths[j].waits_for = NOTHING;
  }
}

/* Make the lanes active that are farthest behind, together with all that are at the same place. False if there are
none: all have exited, or wait at a barrier of the program. */
static int choose_path(State *state, Warp *w, const Instruction *code) {
  int left = 0;
  for (int i = 0; i < w->num_paths; i++) {
    w->paths[i].lanes &= ~w->exited;
    if (w->paths[i].lanes) w->paths[left++] = w->paths[i];
  }
  w->num_paths = left;
  release_paths(w);
  const Path *behind = NULL;
  for (int i = 0; i < w->num_paths; i++) {
    const Path *path = &w->paths[i];
    if (path->waits_for == NOTHING && (behind == NULL || path->place < behind->place)) behind = path;
  }
  if (behind == NULL) {
    for (int i = 0; i < w->num_paths; i++)
      if (w->paths[i].waits_for != PROGRAM) fail(state, "lanes wait for each other", &code[w->paths[i].place]);
    w->active = 0;
    w->done = w->num_paths == 0;
    return 0;
  }
  w->place = behind->place;
  w->active = 0;
  left = 0;
  for (int i = 0; i < w->num_paths; i++) {
    if (w->paths[i].waits_for == NOTHING && w->paths[i].place == w->place) w->active |= w->paths[i].lanes;
    else w->paths[left++] = w->paths[i];
  }
  w->num_paths = left;
  return 1;
}

/* --- a warp --------------------------------------------------------------------------------------------- */

/* Run until a barrier or the end. */
static void run_warp(State *state, Warp *w, const Instruction *code) {
  enum { SHORTEST_LATENCY = 10, UNKNOWN_LATENCY = 20 };
  const Instruction *self;
  uint32_t lanes, needed, place;
  memset(w->r[255], 0, sizeof w->r[255]);
  w->ur[63] = 0;
  for (int i = 0; i < w->num_paths; i++) w->paths[i].waits_for = NOTHING;
  if (w->num_paths && !choose_path(state, w, code)) return;
  for (;;) {
    self = &code[w->place];
    if (__builtin_expect(w->num_paths > 0, 0) && self->joins) {
      add_path(state, w, w->place, w->active, NOTHING, 0, self);
      choose_path(state, w, code);
      self = &code[w->place];
    }
  issue:
    if (state->counts.issued) state->counts.issued[self->index]++;
    if (self->waits) wait_for_scoreboards(state, w, self);
    if (self->kind == OPERATION) {
      if (!self->times_itself) {
        latest(&w->scoreboard[self->writes], w->time + (self->latency ? self->latency : UNKNOWN_LATENCY));
        latest(&w->scoreboard[self->reads], w->time + SHORTEST_LATENCY);
      }
      self->run(state, w, self);
      w->time += self->stall;
      w->place++;
      continue;
    }
    w->time += self->stall;
    place = w->place++;
    lanes = lanes_with(w, self->condition, lanes_with(w, self->guard, w->active));
    switch (self->kind) {
      case NO_OPERATION: continue;
      case FENCE:
        w->time += state->latencies.fence;
        if (state->late && lanes) fence(state, w);
        continue;
      case INVALIDATE:
        if (lanes) state->invalidated = 1;
        continue;
      case EXIT:
        w->exited |= lanes;
        w->active &= ~lanes;
        if (w->active) continue;
        break;
      case BRANCH:
        if (!lanes) continue;
        if (lanes == w->active) {
          w->place = self->target;
          continue;
        }
        add_path(state, w, place + 1, w->active & ~lanes, NOTHING, 0, self);
        add_path(state, w, self->target, lanes, NOTHING, 0, self);
        break;
      case BRANCH_IF_APART:
        if (w->active != (w->ur[self->k[0]] & ~w->exited)) w->place = self->target;
        continue;
      case MEET:
        w->convergence[self->k[0]] = w->active;
        continue;
      case LEAVE:
        w->convergence[self->k[0]] &= ~lanes;
        continue;
      case WAIT:
        needed = w->convergence[self->k[0]] & ~w->exited;
        if ((w->active & needed) == needed) continue;
        add_path(state, w, place + 1, w->active, (int)self->k[0], 0, self);
        break;
      case SYNC_WARP: /* its lanes are in a register, or all */
        needed = (self->k[0] == 255 ? 0xffffffffu : w->r[self->k[0]][__builtin_ctz(w->active)]) & ~w->exited;
        if ((w->active & needed) == needed) continue;
        add_path(state, w, place + 1, w->active, WARP_SYNC, needed, self);
        break;
      case CALL:
        if (lanes != w->active) fail(state, "a call of some lanes", self);
        w->place = self->target;
        continue;
      case RETURN:
        place = w->r[self->k[0]][__builtin_ctz(w->active)];
        for (int l = 0; l < LANES; l++)
          if ((w->active >> l) & 1 && w->r[self->k[0]][l] != place)
            fail(state, "lanes return to different places", self);
        w->place = place / 16;
        continue;
      case BARRIER: /* each lane arrives on its own */
        add_path(state, w, place + 1, w->active, PROGRAM, 0, self);
        break;
      case COLLECTIVE: fail(state, "lanes exchange numbers that are apart", self);
      default: fail(state, "the end of the code", self);
    }
    if (!choose_path(state, w, code)) return;
    self = &code[w->place];
    goto issue;
  }
}

/* --- programs ------------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t num_warps, grid[3];
  uint64_t num_programs;
  const uint32_t *programs; /* in the order in which they run */
  uint64_t *cycles;         /* of each: from its start to its end, */
  uint64_t *first_read;     /* and to its first and its last read of what nobody has touched */
  uint64_t *last_read;
} Grid;

static void start(State *state, Warp *warps, const Grid *grid) {
  state->block[0] = state->program % grid->grid[0];
  state->block[1] = state->program / grid->grid[0] % grid->grid[1];
  state->block[2] = state->program / grid->grid[0] / grid->grid[1];
  state->invalidated = 0;
  state->first_read = UINT64_MAX;
  state->last_read = 0;
  memset(state->shared, 0xff, state->shared_bytes); /* NaN, for what is read before it is written */
  for (uint32_t i = 0; i < grid->num_warps; i++) {
    memset(&warps[i], 0, sizeof(Warp));
    memset(warps[i].r, 0xa5, sizeof warps[i].r);
    warps[i].index = (int)i;
    warps[i].active = 0xffffffffu;
    for (uint32_t l = 0; l < LANES; l++) warps[i].thread[l] = LANES * i + l;
  }
}

static void run_program(State *state, Warp *warps, uint32_t num_warps, const Instruction *code) {
  enum { BARRIER_LATENCY = 20 };
  for (;;) {
    int waiting = 0;
    uint64_t time = 0;
    for (uint32_t i = 0; i < num_warps; i++) {
      if (warps[i].done) continue;
      run_warp(state, &warps[i], code);
      if (warps[i].done) continue;
      waiting++;
      latest(&time, warps[i].time);
    }
    if (!waiting) return;
    if (state->late) order_stores(state);
    for (uint32_t i = 0; i < num_warps; i++)
      if (!warps[i].done) warps[i].time = time + BARRIER_LATENCY;
  }
}

/* What is not visible when all programs have ended becomes so, program by program in any order. */
static void make_all_visible(State *state) {
  uint64_t *ends = (uint64_t *)malloc((state->num_stores + 1) * sizeof *ends), count = 0;
  for (uint64_t end = state->num_stores; end > 0; end = start_of_run(state, end)) {
    uint64_t other = random_below(state, count + 1);
    ends[count++] = ends[other];
    ends[other] = end;
  }
  for (uint64_t i = 0; i < count; i++)
    for (uint64_t k = start_of_run(state, ends[i]); k < ends[i]; k++) make_visible(&state->stores[k]);
  free(ends);
}

size_t size_of_state(void) { return sizeof(State); }
size_t size_of_instruction(void) { return sizeof(Instruction); }

/* Returns 0, or 1 with a message of why it failed. */
int run_grid(const Instruction *code, const uint8_t *constants, uint32_t shared_bytes, Range *ranges, int num_ranges,
             const Counts *counts, const Latencies *latencies, const Grid *grid, int late, int approximates,
             uint64_t seed,
             uint64_t *bytes_and_sectors, char *message) {
  State *state = (State *)calloc(1, sizeof(State));
  Warp *warps = (Warp *)aligned_alloc(64, MAX_WARPS * ((sizeof(Warp) + 63) / 64 * 64));
  state->shared_bytes = (shared_bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
  state->shared = (uint8_t *)aligned_alloc(SHARED_ALIGNMENT, state->shared_bytes + SHARED_ALIGNMENT);
  state->constants = constants;
  state->ranges = ranges;
  state->num_ranges = num_ranges;
  state->counts = *counts;
  state->latencies = *latencies;
  state->late = late;
  state->approximates = approximates;
  state->random = seed;
  volatile int failed = 1;
  if (!setjmp(state->failed)) {
    for (uint64_t i = 0; i < grid->num_programs; i++) {
      state->program = grid->programs[i];
      start(state, warps, grid);
      run_program(state, warps, grid->num_warps, code);
      if (late) forget_visible_stores(state);
      uint64_t cycles = 0;
      for (uint32_t j = 0; j < grid->num_warps; j++) latest(&cycles, warps[j].time);
      int has_read = state->first_read != UINT64_MAX;
      grid->cycles[i] = cycles;
      grid->first_read[i] = has_read ? state->first_read : cycles;
      grid->last_read[i] = has_read ? state->last_read : cycles;
    }
    if (late) make_all_visible(state);
    failed = 0;
  }
  if (failed) memcpy(message, state->message, sizeof state->message);
  bytes_and_sectors[0] = state->first_bytes;
  bytes_and_sectors[1] = state->second_cache_sectors;
  bytes_and_sectors[2] = state->first_cache_sectors;
  free(state->stores);
  free(state->shared);
  free(warps);
  free(state);
  return failed;
}
