/* Numbers as the machine has them. */
#ifndef ARITHMETIC_H
#define ARITHMETIC_H

static inline float as_float(uint32_t bits) {
  float number;
  memcpy(&number, &bits, 4);
  return number;
}
static inline uint32_t as_bits(float number) {
  uint32_t bits;
  memcpy(&bits, &number, 4);
  return bits;
}
static inline double double_of_bits(uint64_t bits) {
  double number;
  memcpy(&number, &bits, 8);
  return number;
}
static inline uint64_t bits_of_double(double number) {
  uint64_t bits;
  memcpy(&bits, &number, 8);
  return bits;
}
#define CANONICAL_NAN 0x7fffffffu

/* A denormal number is zero. */
static inline float flushed(float number) {
  uint32_t bits = as_bits(number);
  return (bits & 0x7f800000u) == 0 ? as_float(bits & 0x80000000u) : number;
}

/* --- integers ------------------------------------------------------------------------------------------- */

static inline uint32_t absolute(uint32_t number) { return (int32_t)number < 0 ? 0u - number : number; }

/* Two sums of 16 bits. */
static inline uint32_t added_halves(uint32_t one, uint32_t other) {
  return ((one & 0xffff0000u) + (other & 0xffff0000u)) | ((one + other) & 0xffffu);
}

/* Four bytes of eight, each chosen by four bits, of which the highest one asks for its sign. */
static inline uint32_t permuted(uint32_t low, uint32_t selection, uint32_t high) {
  uint64_t bytes = ((uint64_t)high << 32) | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    uint32_t choice = (selection >> (4 * i)) & 15, byte = (uint32_t)(bytes >> (8 * (choice & 7))) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
static inline uint32_t reversed(uint32_t bits) {
  uint32_t result = 0;
  for (int i = 0; i < 32; i++) result |= ((bits >> i) & 1u) << (31 - i);
  return result;
}
static inline uint32_t highest_bit(uint32_t bits) { return bits ? 31u - (uint32_t)__builtin_clz(bits) : 0xffffffffu; }

static inline uint32_t signed_of_width(uint32_t number, uint32_t width) {
  return width >= 32 || width == 0 ? number : (uint32_t)((int32_t)(number << (32 - width)) >> (32 - width));
}
static inline uint32_t unsigned_of_width(uint32_t number, uint32_t width) {
  return width >= 32 ? number : number & ((1u << width) - 1u);
}
static inline uint64_t shifted_left(uint64_t number, uint32_t by) { return by > 63 ? 0 : number << by; }
static inline uint64_t shifted_right(uint64_t number, uint32_t by) { return by > 63 ? 0 : number >> by; }
static inline int64_t shifted_right_signed(int64_t number, uint32_t by) { return number >> (by > 63 ? 63 : by); }

/* --- float32 -------------------------------------------------------------------------------------------- */

/* Of a number and a NaN the number; -0 is less than 0. */
static inline float extreme(float one, float other, uint32_t smaller) {
  if (one != one) return other != other ? as_float(CANONICAL_NAN) : other;
  if (other != other) return one;
  if (one == 0 && other == 0) {
    uint32_t both = as_bits(one) & as_bits(other), either = as_bits(one) | as_bits(other);
    return as_float((smaller ? either : both) & 0x80000000u);
  }
  return smaller ? (one < other ? one : other) : (one > other ? one : other);
}
static inline float extreme_or_nan(float one, float other, uint32_t smaller) {
  return one != one || other != other ? as_float(CANONICAL_NAN) : extreme(one, other, smaller);
}

/* Whether a quotient has to be computed with care: its short way would leave the range. */
static inline uint32_t division_is_hard(float dividend, float divisor) {
  int a = (as_bits(dividend) >> 23) & 255, b = (as_bits(divisor) >> 23) & 255;
  if (b == 0 || b == 255 || a == 255) return 1;
  if ((as_bits(dividend) & 0x7fffffffu) == 0) return 0;
  return a <= 23 || a - b > 125 || a - b < -124 || b > 252;
}

enum { DOWN = 1, UP, TO_ZERO };
static __attribute__((noinline)) float fused_towards(float a, float b, float c, int direction) {
  static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
  int before = fegetround();
  fesetround(modes[direction]);
  volatile float va = a, vb = b, vc = c, result = fmaf(va, vb, vc);
  fesetround(before);
  return result;
}

/* --- approximations of the special function unit ----------------------------------------------------------

Where `State.approximates` results are as far off as PTX' manual allows: up, down or not at all, by a hash of the
argument, so that equal arguments have equal results. Powers of two (for exp2: whole numbers) have exact results, as they
do on GPUs. Otherwise results are the nearest numbers.
*/

static inline int hashed_side(float argument) { return (int)((as_bits(argument) * 2654435761u >> 16) % 3) - 1; }
static inline int is_power_of_two(float x) { return (as_bits(x) & 0x7fffffu) == 0; }

/* Off by an error, of which half a unit of the last place is rounding. */
static inline float off(const State *s, double exact, double error, float argument, int is_exact) {
  if (s->approximates && !is_exact && isfinite(exact))
    exact += hashed_side(argument) * (error - fabs(exact) * 0x1p-24);
  return (float)exact;
}
/* Off by less than a unit of the last place: either of the numbers around the exact one. */
static inline float off_by_a_unit(const State *s, double exact, float argument, int is_exact) {
  float nearest = (float)exact;
  if (!s->approximates || is_exact || !isfinite(nearest) || hashed_side(argument) == 0) return nearest;
  return nextafterf(nearest, nearest < exact ? INFINITY : -INFINITY);
}

static inline float approximate_exp2(const State *s, float x) {
  x = flushed(x);
  double exact = exp2(x);
  return flushed(off(s, exact, exact * 0x1p-22, x, x == rintf(x)));
}
static inline float approximate_log2(const State *s, float x) {
  x = flushed(x);
  double exact = log2(x), size = x > 0.5f && x < 2 ? 1 : fabs(exact);
  return off(s, exact, size * 0x1p-22, x, is_power_of_two(x));
}
static inline float approximate_reciprocal(const State *s, float x) {
  x = flushed(x);
  return flushed(off_by_a_unit(s, 1 / (double)x, x, is_power_of_two(x)));
}
static inline float approximate_rsqrt(const State *s, float x) {
  double exact = 1 / sqrt(x);
  return off(s, exact, exact * 0x1.12p-23, x, is_power_of_two(x));
}
static inline float approximate_sqrt(const State *s, float x) {
  return off_by_a_unit(s, sqrt(x), x, is_power_of_two(x));
}
#define TURN 6.283185307179586 /* angles are in turns */
static inline float approximate_sin(const State *s, float x) { return off(s, sin(x * TURN), 0x1p-21, x, x == 0); }
static inline float approximate_cos(const State *s, float x) { return off(s, cos(x * TURN), 0x1p-21, x, x == 0); }
static inline float approximate_tanh(const State *s, float x) {
  double exact = tanh(x);
  return off(s, exact, exact * 0x1p-11, x, x == 0);
}

/* --- conversions ---------------------------------------------------------------------------------------- */

static inline float half_to_float(uint32_t bits) {
  uint32_t sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31, fraction = bits & 0x3ffu;
  if (exponent == 31) return as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent) return as_float(sign | (exponent + 112) << 23 | fraction << 13);
  float magnitude = (float)fraction * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}
/* To the nearest, of two the even one; from a double, so that an exact sum of products is rounded once. */
static inline uint32_t double_to_half(double number) {
  uint64_t bits;
  memcpy(&bits, &number, 8);
  uint32_t sign = (uint32_t)(bits >> 48) & 0x8000u;
  double magnitude = fabs(number);
  if (number != number) return 0x7fffu;
  if (magnitude >= 65520.0) return sign | 0x7c00u;
  int exponent = (int)((bits >> 52) & 2047) - 1023;
  if (exponent < -14) exponent = -14;
  double step = ldexp(1.0, exponent - 10);
  uint32_t steps = (uint32_t)nearbyint(magnitude / step); /* 1024 to 2048, less if denormal */
  return sign | (uint32_t)(((exponent + 14) << 10) + (int)steps);
}
static inline uint32_t float_to_bfloat16(float number) {
  uint32_t bits = as_bits(number);
  return number != number ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

static inline uint32_t double_to_bfloat16(double number) {
  float nearest = (float)number; /* odd if inexact, so that it is rounded once */
  uint32_t bits = as_bits(nearest);
  if ((double)nearest != number && number == number && !(bits & 1))
    bits += fabs((double)nearest) < fabs(number) ? 1u : -1u;
  return float_to_bfloat16(as_float(bits));
}
static inline float bfloat16_to_float(uint32_t bits) { return as_float(bits << 16); }

static inline int32_t float_to_int32(float x) {
  return x != x ? 0 : x >= 0x1p31f ? INT32_MAX : x < -0x1p31f ? INT32_MIN : (int32_t)x;
}
static inline int32_t limited(int32_t number, int32_t least, int32_t most) {
  return number < least ? least : number > most ? most : number;
}
static inline uint32_t float_to_uint32(float x) {
  return x != x || x <= 0 ? 0 : x >= 0x1p32f ? UINT32_MAX : (uint32_t)x;
}
static inline int64_t float_to_int64(float x) {
  return x != x ? INT64_MIN : x >= 0x1p63f ? INT64_MAX : x < -0x1p63f ? INT64_MIN : (int64_t)x;
}
static inline uint64_t float_to_uint64(float x) {
  return x != x || x <= 0 ? 0 : x >= 0x1p64f ? UINT64_MAX : (uint64_t)x;
}
static inline float uint64_to_float(uint64_t number, int upwards) {
  float nearest = (float)number;
  return upwards && nearest < 0x1p64f && (uint64_t)nearest < number ? nextafterf(nearest, INFINITY) : nearest;
}
static inline float int64_to_float(int64_t number, int upwards) {
  float nearest = (float)number;
  return upwards && nearest < 0x1p63f && (int64_t)nearest < number ? nextafterf(nearest, INFINITY) : nearest;
}
#endif
