/* Global and shared memory.

Where stores become visible late (`State.late`) memory is as weak as the model of PTX allows, so that a program shows
that relies on more:

- A store is in the program's own log, from which its own loads read, until a fence of the warp that stored makes it
  visible, or of another warp of the program after a barrier; the rest follows when all programs have ended, in any
  order.
- A plain load of what the program has not stored reads what lay there when the launch began, as if the first cache had
  held it all the time, until the program invalidates that cache. A strong load reads what is visible.
*/
#ifndef MEMORY_H
#define MEMORY_H

typedef struct Store {
  uint64_t address;
  uint32_t program;
  int16_t warp; /* ANY_WARP behind a barrier */
  uint8_t bytes, done;
  uint8_t value[16];
} Store;
enum { ANY_WARP = -1 };

static inline Range *range_of(const State *state, uint64_t address, uint32_t bytes) {
  for (int i = 0; i < state->num_ranges; i++)
    if (address >= state->ranges[i].first && address + bytes <= state->ranges[i].last) return &state->ranges[i];
  return NULL;
}
static inline Range *checked(State *state, uint64_t address, uint32_t bytes, const Instruction *self) {
  Range *range = range_of(state, address, bytes);
  if (range == NULL || address % bytes) {
    char what[128];
    snprintf(what, sizeof what, "%u bytes at 0x%llx are %s", bytes, (unsigned long long)address,
             range ? "not aligned" : "no tensor's");
    fail(state, what, self);
  }
  return range;
}
static inline void load_global(
    State *state, uint64_t address, void *to, uint32_t bytes, int strong, const Instruction *self) {
  Range *range = checked(state, address, bytes, self);
  if (range->before == NULL) {
    memcpy(to, (const void *)address, bytes);
    return;
  }
  uint64_t offset = address - range->first;
  for (uint32_t i = 0; i < bytes; i++, offset++) {
    int is_own = range->own_program[offset] == state->program + 1;
    const uint8_t *other = strong || state->invalidated ? (const uint8_t *)range->first : range->before;
    ((uint8_t *)to)[i] = is_own ? range->own[offset] : other[offset];
  }
}
static inline void store_global(
    State *state, const Warp *warp, uint64_t address, const void *value, uint32_t bytes, const Instruction *self) {
  Range *range = checked(state, address, bytes, self);
  if (range->before == NULL) {
    memcpy((void *)address, value, bytes);
    return;
  }
  if (state->num_stores == state->most_stores) {
    state->most_stores = state->most_stores ? 2 * state->most_stores : 4096;
    state->stores = (Store *)realloc(state->stores, state->most_stores * sizeof(Store));
    if (state->stores == NULL) fail(state, "no memory for stores", self);
  }
  Store *store = &state->stores[state->num_stores++];
  *store = (Store){address, state->program, (int16_t)warp->index, (uint8_t)bytes, 0, {0}};
  memcpy(store->value, value, bytes);
  for (uint32_t i = 0; i < bytes; i++) {
    uint64_t offset = address - range->first + i;
    range->own[offset] = ((const uint8_t *)value)[i];
    range->own_program[offset] = state->program + 1;
  }
}

static inline uint8_t *shared_at(State *state, uint64_t address, uint32_t bytes, const Instruction *self) {
  if (address + bytes > state->shared_bytes) fail(state, "beyond shared memory", self);
  if (address % bytes) fail(state, "not aligned in shared memory", self);
  return state->shared + address;
}

static inline uint32_t *local_at(State *state, Warp *warp, uint64_t address, uint32_t bytes, const Instruction *self) {
  if (address + bytes > LOCAL_BYTES || address % 4) fail(state, "beyond local memory", self);
  return warp->local[address / 4];
}

/* --- counting ------------------------------------------------------------------------------------------- */

/* Count the sectors of a request; returns cycles until it is served, by the farthest of what serves it. */
static inline uint32_t served_global(
    State *state, const Warp *warp, const uint64_t *addresses, uint32_t lanes, uint32_t bytes, int stores,
    const Instruction *self) {
  enum { SHORTEST = 10, SEEN = 4 * LANES };
  enum { OURS = 1, OTHERS, NOBODYS } farthest = 0;
  if (!lanes || state->counts.requests == NULL) return SHORTEST;
  uint64_t seen[SEEN];
  int num_seen = 0;
  state->counts.requests[self->index]++;
  for (int l = 0; l < LANES; l++) {
    if (!((lanes >> l) & 1)) continue;
    Range *range = range_of(state, addresses[l], bytes);
    uint64_t sector = addresses[l] >> 5;
    int k = num_seen - 1;
    while (k >= 0 && seen[k] != sector) k--;
    if (k >= 0) continue;
    seen[num_seen++] = sector;
    uint32_t *last = &range->last_program[sector - (range->first >> 5)];
    int from = *last == 0 ? NOBODYS : *last == state->program + 1 && !stores ? OURS : OTHERS;
    if (from == NOBODYS) state->first_bytes += 32;
    else if (from == OURS) state->first_cache_sectors++;
    else state->second_cache_sectors++;
    if (from > (int)farthest) farthest = from;
    *last = state->program + 1;
  }
  state->counts.sectors[self->index] += (uint64_t)num_seen;
  if (farthest == NOBODYS && !stores) {
    if (warp->time < state->first_read) state->first_read = warp->time;
    latest(&state->last_read, warp->time);
  }
  const Latencies *latencies = &state->latencies;
  uint32_t way = farthest == NOBODYS ? latencies->memory : farthest == OTHERS ? latencies->second_cache
                                                                             : latencies->first_cache;
  return way + 2 * (uint32_t)((num_seen + 3) / 4);
}

/* Count passes over the 32 banks: what reads eight or sixteen bytes a lane does it by halves or quarters of a warp. */
static inline void served_shared(
    State *state, const uint64_t *addresses, uint32_t lanes, uint32_t bytes, const Instruction *self) {
  if (!lanes || state->counts.requests == NULL) return;
  int words = bytes < 4 ? 1 : (int)bytes / 4, lanes_a_part = LANES / words;
  state->counts.requests[self->index]++;
  for (int part = 0; part < words; part++) {
    uint64_t seen[LANES][LANES];
    int num_seen[LANES] = {0}, passes = 0;
    for (int l = part * lanes_a_part; l < (part + 1) * lanes_a_part; l++)
      for (int k = 0; k < words && ((lanes >> l) & 1); k++) {
        uint64_t word = (addresses[l] >> 2) + (uint64_t)k;
        int bank = word & 31, j = 0;
        while (j < num_seen[bank] && seen[bank][j] != word) j++;
        if (j == num_seen[bank]) seen[bank][num_seen[bank]++] = word;
        if (num_seen[bank] > passes) passes = num_seen[bank];
      }
    state->counts.sectors[self->index] += (uint64_t)passes;
  }
}
#endif
