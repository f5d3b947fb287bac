/* A warp, what programs of a launch share, and the words in which instructions are written (instructions/ *.py).

Everything of 32 lanes is an array over them: loops over lanes without branches are vector instructions of the host.
*/
#ifndef MACHINE_H
#define MACHINE_H
#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANES 32
#define MAX_WARPS 32
#define MAX_PATHS 64
#define NUM_CONVERGENCE_BARRIERS 16
#define SHARED_ALIGNMENT 1024
#define LOCAL_BYTES 1024

/* Lanes that are not active: where they go on, and what they wait for. */
typedef struct {
  uint32_t place;   /* of the instruction at which they go on */
  uint32_t lanes;
  uint32_t needed;  /* lanes that have to arrive before they go on */
  int waits_for;    /* a convergence barrier, or one of these */
} Path;
enum { NOTHING = -1, WARP_SYNC = NUM_CONVERGENCE_BARRIERS, PROGRAM };

typedef struct {
  uint32_t r[256][LANES];  /* registers; the last one is zero */
  uint32_t ur[64];         /* uniform registers; likewise */
  uint32_t p[8];           /* predicates: a bit a lane */
  uint32_t up;             /* uniform predicates: a bit each */
  uint32_t active, exited; /* lanes */
  uint32_t convergence[NUM_CONVERGENCE_BARRIERS]; /* lanes that meet there */
  uint32_t thread[LANES];
  uint32_t local[LOCAL_BYTES / 4][LANES]; /* memory of each lane */
  uint32_t place;
  int done, index, num_paths;
  Path paths[MAX_PATHS];
  uint64_t time;           /* cycles, see `Clock` */
  uint64_t scoreboard[8];  /* when what an instruction left open is done; the last one is nobody's */
} Warp;

/* Memory that a launch may touch. */
typedef struct {
  uint64_t first, last;     /* addresses, the second one behind its end */
  uint32_t *last_program;   /* of each 32 bytes: who touched them last, plus one. NULL unless counted */
  uint8_t *before;          /* the bytes when the launch began. NULL unless stores become visible late */
  uint8_t *own;             /* bytes that a program has stored, */
  uint32_t *own_program;    /* if this is the program, plus one */
} Range;

/* What instructions do, each in the order of the code. */
typedef struct {
  uint64_t *issued;    /* how often by a warp */
  uint64_t *stalled;   /* cycles for what is not ready */
  uint64_t *requests;  /* of memory that had any lane */
  uint64_t *sectors;   /* of 32 bytes; of shared memory, passes over its banks */
} Counts;

/* Cycles of a program that is alone on its multiprocessor. */
typedef struct {
  uint32_t memory, second_cache, first_cache, atomic, fence;
} Latencies;

struct Instruction;

typedef struct State {
  const uint8_t *constants; /* the bank of arguments */
  uint8_t *shared;
  uint32_t shared_bytes;
  uint32_t program, block[3];
  Range *ranges;
  int32_t num_ranges;
  Counts counts;
  Latencies latencies;
  uint64_t first_bytes, second_cache_sectors, first_cache_sectors; /* by who touched them before: nobody, others, we */
  uint64_t first_read, last_read;  /* of what nobody had touched: when */
  int approximates;                /* special functions are as far off as they may be, see arithmetic.h */
  int late;                        /* stores become visible late, and loads may be of old values, see memory.h */
  int invalidated;                 /* this program has dropped what its first cache holds */
  struct Store *stores;            /* that are not visible yet */
  uint64_t num_stores, most_stores;
  uint64_t random;
  jmp_buf failed;
  char message[256];
} State;

typedef void Operation(State *, Warp *, const struct Instruction *);

/* A predicate in the code: of lanes, of the warp, or always or never true. */
typedef struct {
  uint8_t kind, number, negated;
} Predicate;
enum { ALWAYS, OF_LANES, OF_WARP, NEVER };

#define MAX_OPERANDS 32
typedef struct Instruction {
  Operation *run;
  int32_t kind;
  uint32_t address, index;
  uint32_t latency; /* cycles until what it computes is there */
  uint8_t stall, writes, reads, waits; /* ptxas' schedule: cycles, scoreboards */
  uint8_t joins;    /* lanes may wait here for others to go on with */
  uint8_t times_itself;
  Predicate guard, condition;
  uint32_t target;
  uint32_t k[MAX_OPERANDS]; /* numbers of registers, immediates, offsets into the constants */
} Instruction;

enum Kind {
  OPERATION, NO_OPERATION, EXIT, BRANCH, BRANCH_IF_APART, MEET, LEAVE, WAIT, SYNC_WARP, CALL, RETURN, BARRIER, FENCE,
  INVALIDATE, COLLECTIVE, END
};

static inline void fail(State *state, const char *what, const Instruction *self) {
  snprintf(state->message, sizeof state->message, "%s, at 0x%x of program %u", what, self->address, state->program);
  longjmp(state->failed, 1);
}

static inline void latest(uint64_t *time, uint64_t other) {
  if (other > *time) *time = other;
}

#include "memory.h"
#include "arithmetic.h"

/* --- what instructions are written in ------------------------------------------------------------------- */

#define EACH_LANE _Pragma("GCC ivdep") for (int l = 0; l < LANES; l++)
#define HAS(lanes) (((lanes) >> l) & 1u)
#define PUT(to, value) to[l] = HAS(m) ? (value) : to[l]
#define PUT_PREDICATE(to, value) to = (to & ~m) | ((value) & m)
#define PUT_UNIFORM_PREDICATE(number, value) w->up = (w->up & ~(1u << (number))) | (((value) & 1u) << (number))
#define CONSTANT(offset) (*(const uint32_t *)(s->constants + (offset)))
#define WIDE(high, low) (((uint64_t)(high) << 32) | (low))

#endif
