// pool.cl: pooling over up to three spatial axes. Arrays have five: two others, then depth, height and width.
//
// Along each spatial axis, tap t of window o reads element o * stride - before + t * dilation; what lies outside is padding. Results
// and gradients are gathered, one element by one work-item; only max_pool_backward and max_unpool, whose indices may point anywhere,
// take a plane each.

typedef struct { long size, count, window, stride, dilation, before, after; } Axis;
typedef struct {
    long elements, shape[5];  // what work-items share out
    Operand arg[ARGS];
    Axis axis[3];
    long include_padding;
} Pool;

// The elements of a work-item: neighbours on a CPU, and beside those of its neighbours on a GPU.
#if WG > 1
#define FOR_ELEMENTS for (long e = get_global_id(0); e < p->elements; e += get_global_size(0))
#else
#define FOR_ELEMENTS                                                                                                   \
    for (long e = p->elements * get_global_id(0) / get_global_size(0); e < p->elements * (get_global_id(0) + 1) / get_global_size(0); e++)
#endif
FUNCTION void locate(const Pool *p, long e, long *o) {
    for (int d = 4; d >= 0; d--) {
        o[d] = e % p->shape[d];
        e /= p->shape[d];
    }
}
FUNCTION long at_element(const Operand *a, const long *o) {
    long q = a->offset;
    for (int d = 0; d < 5; d++) q += o[d] * a->stride[d];
    return q;
}
FUNCTION long at_place(const Operand *a, const long *others, const long *place) {
    long q = a->offset + others[0] * a->stride[0] + others[1] * a->stride[1];
    for (int d = 0; d < 3; d++) q += place[d] * a->stride[2 + d];
    return q;
}

// For each tap of window o that is no padding: `place` is where it lies along the spatial axes.
#define FOR_TAPS_ALONG(p, o, d)                                                                                        \
    for (long t##d = 0; t##d < (p)->axis[d].window; t##d++)                                                            \
        if (within(&(p)->axis[d], (o)[d], t##d, place + d))
#define FOR_TAPS(p, o) FOR_TAPS_ALONG(p, o, 0) FOR_TAPS_ALONG(p, o, 1) FOR_TAPS_ALONG(p, o, 2)
FUNCTION bool within(const Axis *a, long o, long t, long *place) {
    *place = o * a->stride - a->before + t * a->dilation;
    return *place >= 0 && *place < a->size;
}
// For each window that reaches element `at`, in descending order of taps and so in ascending order of windows.
#define FOR_WINDOWS(p, at)                                                                                             \
    for (long t0 = (p)->axis[0].window - 1; t0 >= 0; t0--)                                                             \
        if (reaches(&(p)->axis[0], (at)[0], t0, o))                                                                    \
            for (long t1 = (p)->axis[1].window - 1; t1 >= 0; t1--)                                                     \
                if (reaches(&(p)->axis[1], (at)[1], t1, o + 1))                                                        \
                    for (long t2 = (p)->axis[2].window - 1; t2 >= 0; t2--)                                             \
                        if (reaches(&(p)->axis[2], (at)[2], t2, o + 2))
FUNCTION bool reaches(const Axis *a, long at, long t, long *o) {
    const long start = at + a->before - t * a->dilation;
    *o = start / a->stride;
    return start >= 0 && start % a->stride == 0 && *o < a->count;
}

// ---------------------------------------------------------------- max_pool

#ifdef OP_max_pool

#if OUTPUTS > 1
#define INDEX_PARAMETER , __global OUT1 *index
#define INDEX_ARGUMENT , index
#else
#define INDEX_PARAMETER
#define INDEX_ARGUMENT
#endif
#define FLAT(p, place) ((place[0] * (p)->axis[1].size + place[1]) * (p)->axis[2].size + place[2])
// Whether v takes the place of m: the first of equals stays, and of NaNs.
#define WINS(v, m) (((v) > (m)) | (((v) != (v)) & ((m) == (m))))

FUNCTION void max_window(const Pool *p, const long *o, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    long place[3], best = -1;
    ACC m = 0;
    FOR_TAPS(p, o + 2) {
        const ACC v = value0(x + at_place(&p->arg[0], o, place));
        if (best < 0 || WINS(v, m)) {
            m = v;
            best = FLAT(p, place);
        }
    }
    set0(y + at_element(&p->arg[1], o), m);
#if OUTPUTS > 1
    index[at_element(&p->arg[2], o)] = best;
#endif
}

#ifdef SIDE
// VEC windows beside each other along dimension SIDE, of which a tap is padding for all or for none. Their elements lie APART from
// each other; if that is 0, it was not compiled in.
FUNCTION V side_by_side(const __global IN0 *x, long apart) {
#if APART == 1
    return PASTE(VECTOR_, READ0)(x);
#elif APART == 2
    const V a = PASTE(VECTOR_, READ0)(x), b = PASTE(VECTOR_, READ0)(x + VEC - 1);  // no further than the last of them
    V v;
    v.lo = a.even;
    v.hi = b.odd;
    return v;
#else
    V v;
    LANES(k, VEC) ((ACC *)&v)[k] = value0(x + k * apart);
    return v;
#endif
}
FUNCTION void max_windows(const Pool *p, const long *o, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    const Axis *a = &p->axis[2];
    const long apart = p->arg[0].stride[SIDE] * (SIDE == 4 ? a->stride : 1), step = a->dilation * p->arg[0].stride[4];
    const long start = o[4] * a->stride - a->before;
    long place[3];
    bool first = true;
    V m = CONSTANT(0);
    I best = (I)(0);
    FOR_TAPS_ALONG(p, o + 2, 0)
        FOR_TAPS_ALONG(p, o + 2, 1) {
            place[2] = start;
            long at = at_place(&p->arg[0], o, place);
            for (long t = 0; t < a->window; t++, place[2] += a->dilation, at += step) {
                if (SIDE != 4 && (place[2] < 0 || place[2] >= a->size)) continue;
                const V v = side_by_side(x + at, apart);
                if (first) {
                    m = v;
                    best = (I)((SIGNED)FLAT(p, place));
                    first = false;
                    continue;
                }
                const I wins = WINS(v, m);
                m = wins ? v : m;
#if OUTPUTS > 1
                best = wins ? (I)((SIGNED)FLAT(p, place)) : best;
#endif
            }
        }
    const long to = p->arg[1].stride[SIDE];
    if (to == 1)
        PASTE(PUT_VECTOR_, WRITE0)(OUT0, m, y + at_element(&p->arg[1], o));
    else
        LANES(k, VEC) set0(y + at_element(&p->arg[1], o) + k * to, ((ACC *)&m)[k]);
#if OUTPUTS > 1
    const long further = SIDE == 4 ? p->axis[2].stride : 0;
    LANES(k, VEC) index[at_element(&p->arg[2], o) + k * p->arg[2].stride[SIDE]] = ((SIGNED *)&best)[k] + k * further;
#endif
}
// The last windows of a row are met twice where they do not fill a vector.
KERNEL(max_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    const Pool *p = &pool;
    const Axis *a = &p->axis[2];
    const long count = p->shape[SIDE], rows = p->elements / count;
    const long room = a->size + a->before - (a->window - 1) * a->dilation;  // past the last place where a window may start
    const long low = SIDE == 4 ? min(count, (a->before + a->stride - 1) / a->stride) : 0;
    const long high = SIDE == 4 ? min(count, (room + a->stride - 1) / a->stride) : count;
    for (long r = rows * get_global_id(0) / get_global_size(0); r < rows * (get_global_id(0) + 1) / get_global_size(0); r++) {
        long o[5], rest = r;
        for (int d = 4; d >= 0; d--) {
            o[d] = d == SIDE ? 0 : rest % p->shape[d];
            rest /= d == SIDE ? 1 : p->shape[d];
        }
        const bool fits = high - low >= VEC;
        for (o[SIDE] = 0; o[SIDE] < (fits ? low : count); o[SIDE]++) max_window(p, o, x, y INDEX_ARGUMENT);
        if (!fits) continue;
        for (long at = low; at < high; at += VEC) {
            o[SIDE] = min(at, high - VEC);
            max_windows(p, o, x, y INDEX_ARGUMENT);
        }
        for (o[SIDE] = high; o[SIDE] < count; o[SIDE]++) max_window(p, o, x, y INDEX_ARGUMENT);
    }
}
#else
KERNEL(max_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y INDEX_PARAMETER) {
    const Pool *p = &pool;
    FOR_ELEMENTS {
        long o[5];
        locate(p, e, o);
        max_window(p, o, x, y INDEX_ARGUMENT);
    }
}
#endif

#endif
#if defined(OP_max_pool_backward) || defined(OP_max_unpool)

// Where element k of a plane lies. JOINED says that the three axes of every operand are one, of equal steps.
#ifdef JOINED
#define SIZES(p) 0
#define COUNTS(p) 0
#define within_plane(a, sizes, k) ((k) * (a)->stride[4])
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
    FOR_ELEMENTS {
        const long o[5] = {e / p->shape[1], e % p->shape[1], 0, 0, 0};
        const __global IN0 *ys = y + at_element(from, o);
        const __global IN1 *indices = index + at_element(at, o);
        __global OUT0 *xs = x + at_element(to, o);
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
typedef struct { ACC high, low; } Total;
FUNCTION void add_to(Total *s, ACC a) {
    const ACC t = s->high + a, v = t - s->high;
    s->low += (s->high - (t - v)) + (a - v);
    s->high = t;
}
FUNCTION ACC total_of(Total s) { return s.high - s.high == 0 ? s.high + s.low : s.high; }

// What a window's sum is divided by: its elements, with those of the padding or without.
FUNCTION ACC divisor(const Pool *p, const long *o) {
    long count = 1, place;
    for (int d = 0; d < 3; d++) {
        const Axis *a = &p->axis[d];
        long along = 0;
        for (long t = 0; t < a->window; t++)
            along += within(a, o[d], t, &place) || (p->include_padding && place < a->size + a->after);
        count *= along;
    }
    return count;
}

#ifdef OP_avg_pool

FUNCTION ACC mean_of(const Pool *p, const long *o, const __global IN0 *x, ACC unit) {
    long place[3];
    Total s = {0, 0};
    FOR_TAPS(p, o + 2) add_to(&s, value0(x + at_place(&p->arg[0], o, place)) * unit);
    return total_of(s) / divisor(p, o + 2);
}
KERNEL(avg_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y) {
    const Pool *p = &pool;
    FOR_ELEMENTS {
        long o[5];
        locate(p, e, o);
        ACC mean = mean_of(p, o, x, 1);
        if (mean - mean != 0) {  // the sum may have overflowed on its way: the same of parts so small that it cannot
            const int bits = ilogb((ACC)divisor(p, o + 2)) + 2;
            mean = ldexp(mean_of(p, o, x, ldexp((ACC)1, -bits)), bits);
        }
        set0(y + at_element(&p->arg[1], o), mean);
    }
}

#endif
#ifdef OP_avg_pool_backward

KERNEL(avg_pool_backward)(const Pool pool, const __global IN0 *dy, __global OUT0 *dx) {
    const Pool *p = &pool;
    FOR_ELEMENTS {
        long at[5], o[3];
        Total s = {0, 0};
        locate(p, e, at);
        FOR_WINDOWS(p, at + 2) add_to(&s, value0(dy + at_place(&p->arg[0], at, o)) / divisor(p, o));
        set0(dx + at_element(&p->arg[1], at), total_of(s));
    }
}

#endif

// ---------------------------------------------------------------- softmax_pool

#if defined(OP_softmax_pool) || defined(OP_softmax_pool_backward)

FUNCTION ACC exponential(ACC x) { return of_row(decay(CONSTANT(x), ZERO)) * (ACC)(1 / UNIT); }
typedef struct { ACC m, l, y; } Window;  // the state of a softmax, and the mean
// The gradient wants what the mean lies below the maximum: of huge elements that is small, and their difference from the mean too.
#ifdef OP_softmax_pool
#define ADDEND(v, m) (v)
#else
#define ADDEND(v, m) ((v) - (m))
#endif
// What has no share, such as -inf, adds 0 to the mean.
FUNCTION Window window_of(const Pool *p, const Operand *a, const long *others, const long *o, const __global PASTE(IN, I_X) *x) {
    long place[3];
    Window w = {-INFINITY, 0, 0};
    Total l = {0, 0}, y = {0, 0};
    FOR_TAPS(p, o) {
        const ACC v = PASTE(value, I_X)(x + at_place(a, others, place));
        w.m = LARGER(v, w.m);
    }
    FOR_TAPS(p, o) add_to(&l, exponential(PASTE(value, I_X)(x + at_place(a, others, place)) - w.m));
    w.l = total_of(l);
    FOR_TAPS(p, o) {
        const ACC v = PASTE(value, I_X)(x + at_place(a, others, place)), share = exponential(v - w.m) / w.l;
        add_to(&y, share == 0 ? 0 : share * ADDEND(v, w.m));
    }
    w.y = total_of(y);
    return w;
}

#endif
#ifdef OP_softmax_pool

KERNEL(softmax_pool)(const Pool pool, const __global IN0 *x, __global OUT0 *y) {
    const Pool *p = &pool;
    FOR_ELEMENTS {
        long o[5];
        locate(p, e, o);
        set0(y + at_element(&p->arg[1], o), window_of(p, &p->arg[0], o, o + 2, x).y);
    }
}

#endif
#ifdef OP_softmax_pool_backward

KERNEL(softmax_pool_backward)(const Pool pool, const __global IN0 *dy, const __global IN1 *x, __global OUT0 *dx) {
    const Pool *p = &pool;
    FOR_ELEMENTS {
        long at[5], o[3];
        Total s = {0, 0};
        locate(p, e, at);
        const ACC v = value1(x + at_element(&p->arg[1], at));
        FOR_WINDOWS(p, at + 2) {
            const Window w = window_of(p, &p->arg[1], at, o, x);
            const ACC share = exponential(v - w.m) / w.l;
            add_to(&s, share == 0 ? 0 : value0(dy + at_place(&p->arg[0], at, o)) * share * (1 + ((v - w.m) - w.y)));
        }
        set0(dx + at_element(&p->arg[2], at), total_of(s));
    }
}

#endif

#endif
