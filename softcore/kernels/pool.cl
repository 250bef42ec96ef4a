// pool.cl: pooling over up to three spatial axes. Arrays have five: two others, then depth, height and width.
//
// Along each spatial axis, tap t of window o reads element o * stride - before + t * dilation; what lies outside is padding. Results
// and gradients are gathered. On a CPU a work-item takes VEC of them at a time, side by side along dimension SIDE: windows, or elements
// that lie the stride of windows apart, so that each of them lies in as many windows as the others, by the same taps. Elsewhere it takes
// one. Only max_pool_backward and max_unpool, whose indices may point anywhere, take a plane each.
//
//   SIDE              the dimension; not defined where work-items take one
//   APART_IN0, ...    how far apart elements of that operand lie that are worked on together; if that is not 1 or 2, it is 0
//   PAIRS             the stride along SIDE is 2, and elements of the gradient are neighbours in memory
//   ROUNDED           results have so much fewer bits than ACC that sums need none to be carried along

typedef struct { long size, count, window, stride, dilation, before, after; } Axis;
typedef struct {
    long units, shape[5];  // what work-items share out; of dimension SIDE they take a stretch at once
    long along, stretch;   // what there is along SIDE if it is no spatial axis, and how much a stretch is
    Operand arg[ARGS];
    Axis axis[3];
    long include_padding;
} Pool;

#ifdef SIDE
typedef V W;
typedef I Truth;
#define WIDE VEC
#else
#define SIDE -1
typedef ACC W;
typedef SIGNED Truth;
#define WIDE 1
#endif
// PoCL calls a function for min and max of integers.
#define LESSER(a, b) ((a) < (b) ? (a) : (b))
#define GREATER(a, b) ((a) > (b) ? (a) : (b))
#define TOGETHER 4  // vectors that share what is to be found out about a tap
#define BESIDE(k, n) _Pragma("unroll") for (int k = 0; k < n; k++)
#define EVERY(c) ((W)((ACC)(c)))
#define IS_SIDE(d) (SIDE == 2 + d)
#define SIDE_D (SIDE < 2 ? 0 : SIDE - 2)  // among the spatial axes, if it is one
#define SIDE_AXIS(p) ((p)->axis[SIDE_D])
#define SIDE_STRIDE(p) (SIDE < 2 ? 1 : SIDE_AXIS(p).stride)
#define SIDE_DIMENSION (SIDE < 0 ? 0 : SIDE)

// What is done with a unit. PoCL compiles a kernel three times, and a function once.
#if WG > 1
#define WORK FUNCTION
#else
#define WORK RARE
#endif
// The units of a work-item: neighbours on a CPU, and beside those of its neighbours on a GPU. `unit` is where one lies.
FUNCTION bool locate(const Pool *p, long u, long *unit) {
    for (int d = 4; d >= 0; d--) {
        unit[d] = u % p->shape[d];
        u /= p->shape[d];
    }
    return true;
}
FUNCTION void advance(const Pool *p, long *unit) {
    for (int d = 4; d >= 0 && ++unit[d] == p->shape[d]; d--) unit[d] = 0;
}
#if WG > 1
#define FOR_UNITS                                                                                                      \
    long unit[5];                                                                                                      \
    for (long u = get_global_id(0); u < p->units && locate(p, u, unit); u += get_global_size(0))
#else
#define FOR_UNITS                                                                                                      \
    long unit[5], u = p->units * get_global_id(0) / get_global_size(0);                                                \
    locate(p, u, unit);                                                                                                \
    for (; u < p->units * (get_global_id(0) + 1) / get_global_size(0); u++, advance(p, unit))
#endif
// Calls do(lanes, n, inside) for a stretch along SIDE, from o[SIDE] on: for n vectors at once where all is `whole`, which reaches nothing
// outside the arrays, elsewhere for some lanes of one. The last are met twice where they do not fill a vector.
#if SIDE < 0
#define OVER_UNIT(do, whole, along)                                                                                    \
    long o[5];                                                                                                         \
    for (int d = 0; d < 5; d++) o[d] = unit[d];                                                                        \
    do(1, 1, true);
#else
#define OVER_UNIT(do, whole, along)                                                                                    \
    long o[5];                                                                                                         \
    for (int d = 0; d < 5; d++) o[d] = unit[d];                                                                        \
    const long begin = unit[SIDE] * p->stretch, stop = LESSER(along, begin + p->stretch), high = LESSER(stop, whole.end); \
    for (long first = begin; first < stop; first += VEC) {                                                             \
        o[SIDE] = first;                                                                                               \
        if (first >= whole.first && first + TOGETHER * VEC <= high) {                                                  \
            do(VEC, TOGETHER, true);                                                                                   \
            first += (TOGETHER - 1) * VEC;                                                                             \
            continue;                                                                                                  \
        }                                                                                                              \
        o[SIDE] = GREATER(begin, LESSER(first, stop - VEC));                                                           \
        if (o[SIDE] >= whole.first && o[SIDE] + VEC <= high) {                                                         \
            do(VEC, 1, true);                                                                                          \
        } else {                                                                                                       \
            do(LESSER(VEC, stop - o[SIDE]), 1, false);                                                                 \
        }                                                                                                              \
    }
#endif

// ---------------------------------------------------------------- elements side by side

// As they lie in memory.
#define BARE_same(T) T
#define BARE_convert(T) T
#define BARE_each(T) T
#define BARE_half(T) ushort
#define BARE_bfloat16(T) T
#define NUMBERS_same(v) (v)
#define NUMBERS_convert(v) PASTE(convert_, V_NAME)(v)
#define NUMBERS_each(v) ZERO  // never
#define NUMBERS_half(v) PASTE(convert_, V_NAME)(PASTE(vload_half, VEC)(0, (const half *)&(v)))
#define NUMBERS_bfloat16(v) PASTE(convert_, V_NAME)(PASTE(as_float, VEC)(PASTE(convert_uint, VEC)(v) << 16))
// The elements `apart` from each other, those of `real` alone where not all are inside.
#if SIDE < 0
#define DEFINE_BESIDE(i, T, READ, APART)                                                                               \
    FUNCTION W beside##i(const __global T *x, long apart, Truth real, bool inside, ACC fill) { return value##i(x); }
#else
#define DEFINE_BESIDE(i, T, READ, APART)                                                                               \
    typedef PASTE(PASTE(BARE_, READ)(T), VEC) Bare##i;                                                                 \
    typedef Bare##i __attribute__((aligned(sizeof(T)))) LooseBare##i;                                                  \
    FUNCTION W beside##i(const __global T *x, long apart, I real, bool inside, ACC fill) {                             \
        if (inside && PASTE(BY_VECTOR_, READ) && (APART == 1 || APART == 2)) {                                         \
            Bare##i v = *(const __global LooseBare##i *)x;                                                             \
            if (APART == 2) {                                                                                          \
                const Bare##i a = v, b = *(const __global LooseBare##i *)(x + VEC - 1); /* no further than the last */ \
                v.lo = a.even;                                                                                         \
                v.hi = b.odd;                                                                                          \
            }                                                                                                          \
            return PASTE(NUMBERS_, READ)(v);                                                                           \
        }                                                                                                              \
        V v = CONSTANT(fill);                                                                                          \
        LANES(k, VEC) if (inside || ((SIGNED *)&real)[k]) ((ACC *)&v)[k] = value##i(x + k * apart);                    \
        return v;                                                                                                      \
    }
#endif
DEFINE_BESIDE(0, IN0, READ0, APART_IN0)
#if INPUTS > 1
DEFINE_BESIDE(1, IN1, READ1, APART_IN1)
#endif
#if INPUTS > 2
DEFINE_BESIDE(2, IN2, READ2, APART_IN2)
DEFINE_BESIDE(3, IN3, READ3, APART_IN3)
DEFINE_BESIDE(4, IN4, READ4, APART_IN4)
#endif
// Numbers as they lie in memory. Doubles become halves by way of floats that are odd where they are not exact, so that rounding those is
// rounding once; what the device has for it takes ten times as long.
#ifdef DOUBLE
#define STICKY 0x1fffffffL  // the bits that a float does not have
#define BITS(v) PASTE(as_, PASTE(SIGNED, VEC))(v)
#define FLOATS(v) PASTE(convert_float, VEC)(PASTE(as_, V_NAME)((BITS(v) | ((BITS(v) & STICKY) + STICKY)) & ~STICKY))
#else
#define FLOATS(v) (v)
#endif
#define STORED_same(T, v) (v)
#define STORED_convert(T, v) PASTE(convert_, PASTE(T, VEC))(v)
#define STORED_half(T, v) halves_of(v)
#define STORED_bfloat16(T, v) to_bfloat16s(PASTE(convert_, V_NAME)(FLOATS(v)))
#if SIDE < 0
FUNCTION void spread(__global OUT0 *y, long apart, long lanes, W v) { set0(y, v); }
#else
#ifndef INTEGER
FUNCTION PASTE(ushort, VEC) halves_of(V v) {
    PASTE(ushort, VEC) bits;
    PASTE(PASTE(vstore_half, VEC), _rte)(FLOATS(v), 0, (half *)&bits);
    return bits;
}
#endif
typedef PASTE(BARE_, WRITE0)(OUT0) Stored;
typedef PASTE(PASTE(BARE_, WRITE0)(OUT0), VEC) StoredVector;
typedef StoredVector __attribute__((aligned(sizeof(OUT0)))) LooseStored;
FUNCTION void spread(__global OUT0 *y, long apart, long lanes, V v) {
    const StoredVector stored = PASTE(STORED_, WRITE0)(OUT0, v);
    if (APART_OUT0 == 1 && lanes == VEC) *(__global LooseStored *)y = stored;
    else LANES(k, VEC) if (k < lanes) ((__global Stored *)y)[k * apart] = ((const Stored *)&stored)[k];
}
#ifdef PAIRS
// The numbers of two vectors in turns.
FUNCTION void spread_both(__global OUT0 *y, V even, V odd) {
    const StoredVector a = PASTE(STORED_, WRITE0)(OUT0, even), b = PASTE(STORED_, WRITE0)(OUT0, odd);
    StoredVector lower, upper;
    lower.even = a.lo;
    lower.odd = b.lo;
    upper.even = a.hi;
    upper.odd = b.hi;
    *(__global LooseStored *)y = lower;
    *(__global LooseStored *)(y + VEC) = upper;
}
#endif
#endif
// Which of the first `lanes` are inside: the first of all lies at `place`, each at `step` from the one before.
FUNCTION Truth lanes_inside(long place, long step, long size, long lanes) {
    Truth real = (Truth)(0);
#if SIDE >= 0
    LANES(k, VEC) ((SIGNED *)&real)[k] = k < lanes && place + k * step >= 0 && place + k * step < size ? -1 : 0;
#endif
    return real;
}
FUNCTION long at_place(const Operand *a, const long *others, const long *place) {
    long q = a->offset + others[0] * a->stride[0] + others[1] * a->stride[1];
    for (int d = 0; d < 3; d++) q += place[d] * a->stride[2 + d];
    return q;
}
// How far apart the elements of operand i lie that are worked on together, if they are windows or if they are elements of those.
FUNCTION long apart_of_windows(const Pool *p, int i) { return SIDE < 0 ? 0 : p->arg[i].stride[SIDE_DIMENSION]; }
FUNCTION long apart_of_elements(const Pool *p, int i) { return apart_of_windows(p, i) * SIDE_STRIDE(p); }
// Where the element lies in operand i that is `beyond` the o[SIDE]th multiple of the stride.
FUNCTION long place_of(const Pool *p, int i, const long *o, long beyond) {
    long place[3] = {o[2], o[3], o[4]};
    if (SIDE >= 2) place[SIDE_D] = place[SIDE_D] * SIDE_STRIDE(p) + beyond;
    return at_place(&p->arg[i], o, place);
}

// ---------------------------------------------------------------- windows and their taps

typedef struct { long first, end; } Range;
FUNCTION long quotient_above(long a, long b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }
FUNCTION long windows_along(const Pool *p) { return SIDE < 2 ? p->along : SIDE_AXIS(p).count; }
// The windows along SIDE of which no tap is padding.
FUNCTION Range whole_windows(const Pool *p) {
    Range r = {0, windows_along(p)};
    if (SIDE >= 2) {
        const Axis *a = &SIDE_AXIS(p);
        r.first = quotient_above(a->before, a->stride);
        r.end = LESSER(a->count, quotient_above(a->size + a->before - (a->window - 1) * a->dilation, a->stride));
    }
    return r;
}
// The taps of window o that are no padding; along SIDE all of them.
FUNCTION void find_taps(const Pool *p, const long *o, Range *taps) {
    for (int d = 0; d < 3; d++) {
        const Axis *a = &p->axis[d];
        const long start = o[2 + d] * a->stride - a->before;
        taps[d].first = IS_SIDE(d) ? 0 : GREATER(0, quotient_above(-start, a->dilation));
        taps[d].end = IS_SIDE(d) ? a->window : LESSER(a->window, quotient_above(a->size - start, a->dilation));
    }
}
// For each of them: `at` is where it lies in operand 0, of the first of n vectors, and `real` says in which lanes, if not in all.
#define BEGIN_TAPS(p, o)                                                                                               \
    const Operand *in = &p->arg[0];                                                                                    \
    const Axis *a0 = p->axis, *a1 = a0 + 1, *a2 = a1 + 1;                                                              \
    const long start[3] = {o[2] * a0->stride - a0->before, o[3] * a1->stride - a1->before, o[4] * a2->stride - a2->before}; \
    const long from = at_place(in, o, start), apart = apart_of_elements(p, 0);
#define FOR_TAPS(taps)                                                                                                 \
    for (long t0 = taps[0].first; t0 < taps[0].end; t0++)                                                              \
        for (long t1 = taps[1].first; t1 < taps[1].end; t1++)                                                          \
            for (long t2 = taps[2].first, at = from + t0 * a0->dilation * in->stride[2] + t1 * a1->dilation * in->stride[3] + \
                      t2 * a2->dilation * in->stride[4]; t2 < taps[2].end; t2++, at += a2->dilation * in->stride[4])
#define REAL_TAPS                                                                                                      \
    (inside     ? (Truth)(-1)                                                                                          \
     : SIDE < 2 ? lanes_inside(0, 0, 1, lanes)                                                                         \
                : lanes_inside(start[SIDE_D] + (SIDE == 2 ? t0 : SIDE == 3 ? t1 : t2) * SIDE_AXIS(p).dilation,         \
                               SIDE_AXIS(p).stride, SIDE_AXIS(p).size, lanes))
#define TAP(k, real, fill) beside0(x + at + k * VEC * apart, apart, real, inside, fill)

// ---------------------------------------------------------------- max_pool

#ifdef OP_max_pool

#if OUTPUTS > 1
#define INDEX_PARAMETER , __global OUT1 *index
#define INDEX_ARGUMENT , index
#else
#define INDEX_PARAMETER
#define INDEX_ARGUMENT
#endif
// A place among those of a plane, in their order.
#define FLAT(i, j, k) (((i) * a1->size + (j)) * a2->size + (k))
// Whether v takes the place of m: the first of equals stays, and of NaNs.
#define WINS(v, m) (((v) > (m)) | (((v) != (v)) & ((m) == (m))))

FUNCTION void max_windows(const Pool *p, const long *o, const Range *taps, long lanes, const int n, const bool inside,
                          const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    W m[TOGETHER];
    Truth best[TOGETHER];  // how far beyond the first tap the maximum lies
    BEGIN_TAPS(p, o)
    BESIDE(k, n) m[k] = EVERY(LEAST), best[k] = (Truth)(-1);
    FOR_TAPS(taps) {
        const Truth real = REAL_TAPS;
        BESIDE(k, n) {
            const W v = TAP(k, real, LEAST);
            Truth wins = WINS(v, m[k]);
            m[k] = wins ? v : m[k];
#if OUTPUTS > 1
            wins |= real & (best[k] < (Truth)(0));
            best[k] = wins ? (Truth)((SIGNED)FLAT(t0 * a0->dilation, t1 * a1->dilation, t2 * a2->dilation)) : best[k];
#endif
        }
    }
    const long to = apart_of_windows(p, 1);
    BESIDE(k, n) spread(y + at_place(&p->arg[1], o, o + 2) + k * VEC * to, to, lanes, m[k]);
#if OUTPUTS > 1
    const long first = FLAT(start[0], start[1], start[2]), next = apart_of_windows(p, 2);
    const long further = SIDE < 2 ? 0 : SIDE_AXIS(p).stride * (SIDE == 4 ? 1 : SIDE == 3 ? a2->size : a1->size * a2->size);
    __global OUT1 *q = index + at_place(&p->arg[2], o, o + 2);
    BESIDE(k, n) LANES(j, WIDE)
        if (j < lanes) q[(k * VEC + j) * next] = first + ((SIGNED *)&best[k])[j] + (k * VEC + j) * further;
#endif
}
WORK void max_unit(const Pool *p, const long *unit, Range whole, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    Range taps[3];
    find_taps(p, unit, taps);
#define DO(lanes, n, inside) max_windows(p, o, taps, lanes, n, inside, x, y INDEX_ARGUMENT)
    OVER_UNIT(DO, whole, windows_along(p))
}
KERNEL(max_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    const Pool *p = &pool;
    const Range whole = whole_windows(p);
    FOR_UNITS max_unit(p, unit, whole, x, y INDEX_ARGUMENT);
}

#endif
#if defined(OP_max_pool_backward) || defined(OP_max_unpool)

// Where element k of a plane lies. JOINED says that the three axes of every operand are one, of equal steps; 1 that those are 1.
#ifdef JOINED
#define SIZES(p) 0
#define COUNTS(p) 0
#define within_plane(a, sizes, k) (JOINED == 1 ? (k) : (k) * (a)->stride[4])
#else
#define SIZES(p) (long3)((p)->axis[0].size, (p)->axis[1].size, (p)->axis[2].size)
#define COUNTS(p) (long3)((p)->axis[0].count, (p)->axis[1].count, (p)->axis[2].count)
FUNCTION long within_plane(const Operand *a, long3 sizes, long k) {
    const long row = k / sizes.z;
    return row / sizes.y * a->stride[2] + row % sizes.y * a->stride[3] + k % sizes.z * a->stride[4];
}
#endif
// A plane of zeros to which each y is added, or in which it is put, at its place among the plane's elements, in order.
#ifdef OP_max_unpool
KERNEL(max_unpool)
#else
KERNEL(max_pool_backward)
#endif
(const Pool pool, const __global IN0 *y, const __global IN1 *index, __global OUT0 *x) {
    const Pool *p = &pool;
    const Operand *from = &p->arg[0], *at = &p->arg[1], *to = &p->arg[2];
    const long places = p->axis[0].size * p->axis[1].size * p->axis[2].size;
    const long windows = p->axis[0].count * p->axis[1].count * p->axis[2].count;
    FOR_UNITS {
        const __global IN0 *ys = y + at_place(from, unit, unit + 2);
        const __global IN1 *indices = index + at_place(at, unit, unit + 2);
        __global OUT0 *xs = x + at_place(to, unit, unit + 2);
        for (long k = 0; k < places; k++) set0(xs + within_plane(to, SIZES(p), k), 0);
        for (long k = 0; k < windows; k++) {
            __global OUT0 *q = xs + within_plane(to, SIZES(p), (long)indices[within_plane(at, COUNTS(p), k)]);
            const ACC v = value0(ys + within_plane(from, COUNTS(p), k));
#ifdef OP_max_unpool
            set0(q, v);
#else
            *q = *q + v;
#endif
        }
    }
}

#endif

// ---------------------------------------------------------------- avg_pool

#if defined(FLOAT) || defined(DOUBLE)

// A sum and what its roundings lost.
#ifdef ROUNDED
typedef struct { W high; } Total;
#define NOTHING {{EVERY(0)}, {EVERY(0)}, {EVERY(0)}, {EVERY(0)}}
FUNCTION void add_to(Total *s, W a) { s->high += a; }
FUNCTION W total_of(Total s) { return s.high; }
#else
typedef struct { W high, low; } Total;
#define NOTHING {{EVERY(0), EVERY(0)}, {EVERY(0), EVERY(0)}, {EVERY(0), EVERY(0)}, {EVERY(0), EVERY(0)}}
FUNCTION void add_to(Total *s, W a) {
    const W t = s->high + a, v = t - s->high;
    s->low += (s->high - (t - v)) + (a - v);
    s->high = t;
}
FUNCTION W total_of(Total s) { return s.high - s.high == EVERY(0) ? s.high + s.low : s.high; }
#endif

#if defined(OP_avg_pool) || defined(OP_avg_pool_backward)

// v / count. The inverse of a count may be rounded if results are.
#ifdef ROUNDED
#define PARTS(v, count) ((v) * (EVERY(1) / (count)))
#else
#define PARTS(v, count) ((v) / (count))
#endif
// How many taps of window o count along an axis: with those of the padding, or without.
FUNCTION long counted(const Axis *a, long o, long include_padding) {
    const long start = o * a->stride - a->before, last = include_padding ? a->size + a->after : a->size;
    long count = 0;
    if ((include_padding || start >= 0) && start + (a->window - 1) * a->dilation < last) return a->window;
    for (long t = 0, at = start; t < a->window; t++, at += a->dilation) count += (include_padding || at >= 0) && at < last;
    return count;
}
// What the sums of windows are divided by, which are VEC along SIDE.
FUNCTION W divisor(const Pool *p, const long *o, bool inside) {
    long count = 1;
    W along = EVERY(1);
    for (int d = 0; d < 3; d++) {
        if (!IS_SIDE(d)) count *= counted(p->axis + d, o[d], p->include_padding);
        else if (inside) count *= p->axis[d].window;
        else LANES(k, WIDE) ((ACC *)&along)[k] = GREATER(1, counted(p->axis + d, o[d] + k, p->include_padding));  // of windows
    }
    return along * EVERY(count);
}

#endif
#ifdef OP_avg_pool

FUNCTION void sum_windows(const Pool *p, const long *o, const Range *taps, long lanes, const int n, const bool inside,
                          const __global IN0 *x, ACC unit, W *sums) {
    Total s[TOGETHER] = NOTHING;
    BEGIN_TAPS(p, o)
    FOR_TAPS(taps) {
        const Truth real = REAL_TAPS;
        BESIDE(k, n) add_to(&s[k], TAP(k, real, 0) * EVERY(unit));
    }
    BESIDE(k, n) sums[k] = total_of(s[k]);
}
FUNCTION void mean_windows(const Pool *p, const long *o, const Range *taps, long lanes, const int n, const bool inside,
                           const __global IN0 *x, __global OUT0 *y) {
    const long to = apart_of_windows(p, 1);
    const W count = divisor(p, o + 2, inside);
    W mean[TOGETHER];
    sum_windows(p, o, taps, lanes, n, inside, x, 1, mean);
    BESIDE(k, n) mean[k] = PARTS(mean[k], count);
#ifndef ROUNDED
    W wrong = EVERY(0);
    BESIDE(k, n) wrong += mean[k] - mean[k];
    bool finite = true;
    LANES(j, WIDE) finite &= ((ACC *)&wrong)[j] == 0;
    if (!finite) {  // a sum may have overflowed on its way: the same of parts so small that it cannot
        W part[TOGETHER];
        const int bits = ilogb((ACC)(p->axis[0].window * p->axis[1].window * p->axis[2].window)) + 2;
        sum_windows(p, o, taps, lanes, n, inside, x, ldexp((ACC)1, -bits), part);
        BESIDE(k, n) mean[k] = mean[k] - mean[k] == EVERY(0) ? mean[k] : part[k] / count * EVERY(ldexp((ACC)1, bits));
    }
#endif
    BESIDE(k, n) spread(y + at_place(&p->arg[1], o, o + 2) + k * VEC * to, to, lanes, mean[k]);
}
WORK void mean_unit(const Pool *p, const long *unit, Range whole, const __global IN0 *x, __global OUT0 *y) {
    Range taps[3];
    find_taps(p, unit, taps);
#define DO(lanes, n, inside) mean_windows(p, o, taps, lanes, n, inside, x, y)
    OVER_UNIT(DO, whole, windows_along(p))
}
KERNEL(avg_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y) {
    const Pool *p = &pool;
    const Range whole = whole_windows(p);
    FOR_UNITS mean_unit(p, unit, whole, x, y);
}

#endif

// ---------------------------------------------------------------- softmax_pool

#if defined(OP_softmax_pool) || defined(OP_softmax_pool_backward)

// exp(t) for t <= 0.
FUNCTION W exponential(W t) {
#if WIDE > 1
    const V v = t;
#else
    const V v = CONSTANT(t);
#endif
#ifdef ROUNDED
    const I far = v < CONSTANT(-700);
    const V e = far ? ZERO : exp_offset(far ? ZERO : v, CONSTANT(MAGIC + BIAS));
#else
    const V e = decay(v, ZERO) * CONSTANT(1 / UNIT);
#endif
    return *(const W *)&e;
}

#endif
#ifdef OP_softmax_pool

#if OUTPUTS > 1
#define STATE_PARAMETERS , __global OUT1 *weight, __global OUT2 *means
#define STATE_ARGUMENTS , weight, means
#else
#define STATE_PARAMETERS
#define STATE_ARGUMENTS
#endif
// The mean is that of the distances from the maximum, which are small where the elements are huge. With three results, for the gradient:
// the maximum, what the exponential of the distance from it is multiplied by to be a share, and that mean.
FUNCTION void soft_windows(const Pool *p, const long *o, const Range *taps, long lanes, const int n, const bool inside,
                           const __global IN0 *x, __global OUT0 *y STATE_PARAMETERS) {
    W m[TOGETHER];
    Total l[TOGETHER] = NOTHING, s[TOGETHER] = NOTHING;
    BEGIN_TAPS(p, o)
    BESIDE(k, n) m[k] = EVERY(-INFINITY);
    FOR_TAPS(taps) {
        const Truth real = REAL_TAPS;
        BESIDE(k, n) {
            const W v = TAP(k, real, -INFINITY);
            m[k] = LARGER(v, m[k]);
        }
    }
    FOR_TAPS(taps) {
        const Truth real = REAL_TAPS;
        BESIDE(k, n) {
            const W t = TAP(k, real, -INFINITY) - m[k], e = exponential(t);
            add_to(&l[k], e);
            add_to(&s[k], e == EVERY(0) ? EVERY(0) : e * t);  // what has no share, such as -inf, adds nothing
        }
    }
    const long to = apart_of_windows(p, 1);
    BESIDE(k, n) {
        const W mean = total_of(s[k]) / total_of(l[k]);
        const long q = at_place(&p->arg[1], o, o + 2) + k * VEC * to;
#if OUTPUTS > 1
        spread(y + q, to, lanes, m[k]);
        spread(weight + q, to, lanes, EVERY(1) / total_of(l[k]));
        spread(means + q, to, lanes, mean);
#else
        spread(y + q, to, lanes, m[k] + mean);
#endif
    }
}
WORK void soft_unit(const Pool *p, const long *unit, Range whole, const __global IN0 *x, __global OUT0 *y STATE_PARAMETERS) {
    Range taps[3];
    find_taps(p, unit, taps);
#define DO(lanes, n, inside) soft_windows(p, o, taps, lanes, n, inside, x, y STATE_ARGUMENTS)
    OVER_UNIT(DO, whole, windows_along(p))
}
KERNEL(softmax_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y STATE_PARAMETERS) {
    const Pool *p = &pool;
    const Range whole = whole_windows(p);
    FOR_UNITS soft_unit(p, unit, whole, x, y STATE_ARGUMENTS);
}

#endif
// ---------------------------------------------------------------- gradients

#if defined(OP_avg_pool_backward) || defined(OP_softmax_pool_backward)

// The windows that element `at` of an axis may lie in. Along SIDE `at` is what the element lies beyond a multiple of the stride, windows
// are counted from there, and no matter how many there are.
FUNCTION Range holders(const Axis *a, long at, bool side) {
    Range r = {quotient_above(at + a->before - (a->window - 1) * a->dilation, a->stride), (at + a->before) / a->stride + 1};
    if (!side) r.first = GREATER(0, r.first), r.end = LESSER(a->count, r.end);
    return r;
}
// For each window h that an element lies in: `dilation` divides how far it lies from the start.
#define FOR_HOLDERS_ALONG(d)                                                                                           \
    for (h[d] = held[d].first; h[d] < held[d].end; h[d]++)                                                             \
        if (p->axis[d].dilation == 1 || (at[d] + p->axis[d].before - h[d] * p->axis[d].stride) % p->axis[d].dilation == 0)
#define FOR_HOLDERS FOR_HOLDERS_ALONG(0) FOR_HOLDERS_ALONG(1) FOR_HOLDERS_ALONG(2)

#ifdef OP_avg_pool_backward
#define GIVEN const __global IN0 *dy
#define GIVES dy
#else
#define GIVEN                                                                                                          \
    const __global IN0 *dy, const __global IN1 *x, const __global IN2 *largest, const __global IN3 *weight, const __global IN4 *mean
#define GIVES dy, x, largest, weight, mean
#endif
// Of elements whose place along SIDE is `beyond` multiples of the stride, the first that of o.
FUNCTION void gradients(const Pool *p, const long *o, const Range *held, long beyond, long lanes, const int n, const bool inside,
                        GIVEN, W *sums) {
    long h[3], at[3] = {o[2], o[3], o[4]};
    Total s[TOGETHER] = NOTHING;
    if (SIDE >= 2) at[SIDE_D] = beyond;
#ifdef OP_softmax_pool_backward
    W v[TOGETHER];
    const Truth there = inside ? (Truth)(-1) : lanes_inside(0, 0, 1, lanes);
    const long apart = apart_of_elements(p, 1), first = place_of(p, 1, o, beyond);
    BESIDE(k, n) v[k] = beside1(x + first + k * VEC * apart, apart, there, inside, 0);
#endif
    const long step = apart_of_windows(p, 0);
    FOR_HOLDERS {
        long w[3] = {h[0], h[1], h[2]};
        if (SIDE >= 2) w[SIDE_D] += o[SIDE_DIMENSION];
        const Truth real = inside     ? (Truth)(-1)
                           : SIDE < 2 ? lanes_inside(0, 0, 1, lanes)
                                      : lanes_inside(w[SIDE_D], 1, SIDE_AXIS(p).count, lanes);
        const __global IN0 *from = dy + at_place(&p->arg[0], o, w);
#ifdef OP_avg_pool_backward
        const W count = divisor(p, w, inside);
        BESIDE(k, n) add_to(&s[k], PARTS(beside0(from + k * VEC * step, step, real, inside, 0), count));
#else
        const long state = at_place(&p->arg[2], o, w), next = apart_of_windows(p, 2);
        BESIDE(k, n) {
            const long q = state + k * VEC * next;
            const W t = v[k] - beside2(largest + q, next, real, inside, 0);
            const W share = exponential(t) * beside3(weight + q, next, real, inside, 0);
            const W rise = EVERY(1) + (t - beside4(mean + q, next, real, inside, 0));
            const W term = beside0(from + k * VEC * step, step, real, inside, 0) * share * rise;
            add_to(&s[k], (share == EVERY(0)) | !real ? EVERY(0) : term);
        }
#endif
    }
    BESIDE(k, n) sums[k] = total_of(s[k]);
}
// All elements up to the next multiple of the stride; held[3] and held[4] are what the first two have along SIDE.
FUNCTION void put_gradients(const Pool *p, const long *o, const Range *held, long lanes, const int n, const bool inside, GIVEN,
                            __global OUT0 *dx) {
    const int result = ARGS - 1;
    const long apart = apart_of_elements(p, result);
    W s[2][TOGETHER];
#ifdef PAIRS
    if (inside) {
        BESIDE(beyond, 2) {
            Range of[3] = {held[0], held[1], held[2]};
            of[SIDE_D] = held[3 + beyond];
            gradients(p, o, of, beyond, lanes, n, inside, GIVES, s[beyond]);
        }
        __global OUT0 *q = dx + place_of(p, result, o, 0);
        BESIDE(k, n) spread_both(q + k * VEC * 2, s[0][k], s[1][k]);
        return;
    }
#endif
    for (long beyond = 0; beyond < SIDE_STRIDE(p); beyond++) {
        Range of[3] = {held[0], held[1], held[2]};
        long there = lanes;
        if (SIDE >= 2) {
            of[SIDE_D] = beyond < 2 ? held[3 + beyond] : holders(&SIDE_AXIS(p), beyond, true);
            if (!inside) there = LESSER(lanes, quotient_above(SIDE_AXIS(p).size - beyond, SIDE_STRIDE(p)) - o[SIDE_DIMENSION]);
        }
        gradients(p, o, of, beyond, there, n, inside, GIVES, s[0]);
        __global OUT0 *q = dx + place_of(p, result, o, beyond);
        BESIDE(k, n) spread(q + k * VEC * apart, apart, there, s[0][k]);
    }
}
WORK void gradient_unit(const Pool *p, const long *unit, Range whole, GIVEN, __global OUT0 *dx) {
    Range held[5];
    for (int d = 0; d < 3; d++) held[d] = holders(p->axis + d, unit[2 + d], false);
    for (int beyond = 0; beyond < 2; beyond++) held[3 + beyond] = holders(&SIDE_AXIS(p), beyond, true);
#define DO(lanes, n, inside) put_gradients(p, o, held, lanes, n, inside, GIVES, dx)
    OVER_UNIT(DO, whole, p->along)
}
#ifdef OP_avg_pool_backward
KERNEL(avg_pool_backward)
#else
KERNEL(softmax_pool_backward)
#endif
(const Pool pool, GIVEN, __global OUT0 *dx) {
    const Pool *p = &pool;
    const long stride = SIDE_STRIDE(p);
    const Range first = holders(&SIDE_AXIS(p), 0, true), last = holders(&SIDE_AXIS(p), stride - 1, true);
    Range whole = whole_windows(p);
    if (SIDE >= 2) {
        whole.first = GREATER(0, whole.first - first.first);
        whole.end = LESSER(SIDE_AXIS(p).size / stride, whole.end - last.end + 1);
    }
    FOR_UNITS gradient_unit(p, unit, whole, GIVES, dx);
}

#endif

#endif
