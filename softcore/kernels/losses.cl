// losses.cl: cross-entropy and binary cross-entropy, values and gradients. With p what multiplies each -log_softmax of a row (the
// one-hot or the soft target, smoothed, times the class weight) and P its sum:
//
//   loss      sum p (lse - x) + z lse^2     = P log(mass) + sum p (m - x) + z lse^2
//   gradient  c ((P + 2 z lse) softmax - p)     c: what comes in, over what a mean divides by
//
// VALUE and GRADIENT say which of the two is wanted; SOFT that targets are probabilities; SHARED_OUT that classes besides the label have
// a p; HAS_... which operands there are, and I_... where.

#ifdef HAS_WEIGHT
#define WEIGHT_PARAMETER , const __global PASTE(IN, I_WEIGHT) *weight
#define WEIGHT_ROW , weight + at[I_WEIGHT]
#define WEIGHT_ARGUMENT , weight
#else
#define WEIGHT_PARAMETER
#define WEIGHT_ROW
#define WEIGHT_ARGUMENT
#endif
#ifdef HAS_POS_WEIGHT
#define POS_WEIGHT_PARAMETER , const __global PASTE(IN, I_POS_WEIGHT) *pos_weight
#else
#define POS_WEIGHT_PARAMETER
#endif
#ifdef HAS_DLOSS
#define DLOSS_PARAMETER , const __global PASTE(IN, I_DLOSS) *dloss
#else
#define DLOSS_PARAMETER
#endif
#ifdef VALUE
#define VALUE_PARAMETER , __global OUT0 *loss
#ifdef GRADIENT
#define GRADIENT_PARAMETER , __global OUT1 *dx
#define bring_gradient bring1
#define set_gradient set1
#define GRADIENT_TYPE OUT1
#define GRADIENT_AT (INPUTS + 1)
#else
#define GRADIENT_PARAMETER
#endif
#else
#define VALUE_PARAMETER
#define GRADIENT_PARAMETER , __global OUT0 *dx
#define bring_gradient bring0
#define set_gradient set0
#define GRADIENT_TYPE OUT0
#define GRADIENT_AT INPUTS
#endif

#define KEEP_SHARE t->number[0]  // 1 - smoothing
#define SPREAD t->number[1]      // smoothing / classes
#define Z_LOSS t->number[2]
#define WEIGHTS t->number[3]  // the sum of the class weights
#define FACTOR t->number[4]   // of every gradient

// ---------------------------------------------------------------- cross_entropy

#ifdef OP_cross_entropy

#ifdef SOFT
#define TARGET_ARGUMENT , target
#define TARGET_TILE_PARAMETER , const __global IN1 *target
#define TARGET_ROW , target + at[1]
#else
#define TARGET_ARGUMENT
#define TARGET_TILE_PARAMETER
#define TARGET_ROW
#endif

// p, but for what a label adds to its x_label.
FUNCTION V shares_of(const Task *t TARGET_TILE_PARAMETER WEIGHT_PARAMETER, long j, long n) {
    V p = CONSTANT(SPREAD);
#ifdef SOFT
    p = take1(t, target, j, n, 0) * CONSTANT(KEEP_SHARE) + p;
#endif
#ifdef HAS_WEIGHT
    p = p * PASTE(take, I_WEIGHT)(t, weight, j, n, 0);
#endif
    if (j + VEC > n)
        for (int k = 0; k < VEC; k++)
            if (j + k >= n) ((ACC *)&p)[k] = 0;
    return p;
}
// sum p (m - x) and sum p. An x is not looked at where p is 0: it may be -inf.
FUNCTION void weigh_tile(const Task *t, const __global IN0 *x TARGET_TILE_PARAMETER WEIGHT_PARAMETER, long j, long n, ACC m, V *sums) {
    V p[4], e[4];
    FOUR(k) {
        p[k] = shares_of(t TARGET_ARGUMENT WEIGHT_ARGUMENT, j + k * STEP, n);
        e[k] = p[k] == ZERO ? ZERO : p[k] * (CONSTANT(m) - take0(t, x, j + k * STEP, n, 0));
    }
    add_tile(sums, sums + 1, e);
    add_tile(sums + 2, sums + 3, p);
}
#ifdef GRADIENT
typedef struct { Frame frame; ACC inverse, amount, c, taken; long label; } GradientRow;
FUNCTION void gradient_tile(const Task *t, const __global IN0 *x TARGET_TILE_PARAMETER WEIGHT_PARAMETER REST_PARAMETER,
                            __global GRADIENT_TYPE *dx, long j, long n, const GradientRow *g) {
    V e[4];
#ifdef KEPT
    take_kept(kept, j, n, e);
#else
    FOUR(k) e[k] = take0(t, x, j + k * STEP, n, 0);
    exps_in_frame(t, e, &g->frame);
#endif
    FOUR(k) {
        const long i = j + k * STEP;
        V d = e[k] * CONSTANT(g->inverse) * CONSTANT(g->amount);
#ifdef SHARED_OUT
        d = d - CONSTANT(g->c) * shares_of(t TARGET_ARGUMENT WEIGHT_ARGUMENT, i, n);
#endif
        if (g->label >= i && g->label < i + VEC) ((ACC *)&d)[g->label - i] -= g->taken;
        bring_gradient(t, dx, i, n, g->c == 0 && g->amount == 0 && g->taken == 0 ? ZERO : d);
    }
}
#endif

// As exponentials are added, the next row of x is asked for, and the place of the gradient.
#undef MEANWHILE
#ifdef GRADIENT
#define MEANWHILE                                                                                                      \
    FOUR(k) {                                                                                                          \
        SOON(x + at[0] + n + j + k * STEP);                                                                            \
        if (!t->streaming) SOON_WRITTEN(dx + at[GRADIENT_AT] + j + k * STEP);                                          \
    }
#else
#define MEANWHILE FOUR(k) SOON(x + at[0] + n + j + k * STEP);
#endif
// x and, if soft, target hold rows; labels, dloss and loss one value a row; weight is broadcast to rows.
KERNEL(cross_entropy)(Task task, const __global IN0 *x,
       const __global IN1 *target WEIGHT_PARAMETER DLOSS_PARAMETER VALUE_PARAMETER GRADIENT_PARAMETER) {
    const Task *t = &task;
    SCRATCH(ACC, highs)
    SCRATCH(Sum, sums)
#ifdef KEPT
    __local V exponentials[KEPT];
#endif
    FOR_ROWS {
#ifdef SOFT
        const bool kept = true;
        const long label = -1;
        const ACC x_label = 0, h = 0;
#else
        const long given = n ? (long)target[at[1]] : t->option;
        const bool kept = given != t->option;
        const long label = kept ? given : -1;
        const ACC x_label = kept ? value0(x + at[0] + AT(t, 0, label)) : 0;
#ifdef HAS_WEIGHT
        const ACC h = kept ? KEEP_SHARE * PASTE(value, I_WEIGHT)(weight + at[I_WEIGHT] + AT(t, I_WEIGHT, label)) : 0;
#else
        const ACC h = KEEP_SHARE;
#endif
#endif
        FOLD_OF_ROW(m, log)
        const ACC lse = m + log;
        ACC p = SPREAD * WEIGHTS, apart = 0;
#ifdef SHARED_OUT
        V parts[4] = {ZERO, ZERO, ZERO, ZERO};
        OVER_TILES(weigh_tile(t, x + at[0] TARGET_ROW WEIGHT_ROW, j, end, m, parts))
        Sum products = sum_lanes(parts, parts + 1), mass = sum_lanes(parts + 2, parts + 3);
        OVER_GROUP(sums, products, add_sums(sums[own], sums[other]))
        OVER_GROUP(sums, mass, add_sums(sums[own], sums[other]))
        p = total(mass);
        apart = total(products);
#endif
#ifdef VALUE
        if (LANE == 0 && n) {
            ACC value = ((h != 0) | (x_label - x_label == 0)) ? h * (log + (m - x_label)) : 0;
#ifdef SHARED_OUT
            value += p * log + apart;
#endif
            if (Z_LOSS != 0) value += Z_LOSS * lse * lse;
            set0(loss + at[INPUTS], kept ? value + (m - m) : 0);
        }
#endif
#ifdef GRADIENT
        ACC c = FACTOR;
#ifdef HAS_DLOSS
        if (n) c *= PASTE(value, I_DLOSS)(dloss + at[I_DLOSS]);
#endif
        p = t->n == 1 ? 0 : p + h;  // the share of one class is 1, and all that is wanted of it
        if (Z_LOSS != 0) p += 2 * Z_LOSS * lse;
        if (t->n == 1) {
            if (LANE == 0 && n) set_gradient(dx + at[GRADIENT_AT], kept ? c * p + (m - m) : 0);
            continue;
        }
        const ACC inverse = 1 / (count * of_row(e) + total(l));
        const GradientRow g = {f, inverse, kept ? c * p + (m - m) : 0, kept ? c : 0, kept ? c * h : 0, label};
        OVER_TILES(gradient_tile(t, x + at[0] TARGET_ROW WEIGHT_ROW REST_ARGUMENT, dx + at[GRADIENT_AT], j, end, &g))
#endif
    }
}

#endif

// ---------------------------------------------------------------- binary_cross_entropy

#ifdef OP_binary_cross_entropy

// factor x, and 0 where the factor is 0 and x infinite.
FUNCTION V annihilating(V factor, V x) { return ((factor == ZERO) & (x == CONSTANT(INFINITY))) ? ZERO : factor * x; }

#ifdef HAS_WEIGHT
#define WEIGHT(v) (v * PASTE(take, I_WEIGHT)(t, weight + at[I_WEIGHT], j, n, 0))
#else
#define WEIGHT(v) v
#endif
#ifdef HAS_POS_WEIGHT
#define POS_WEIGHT(v) (v * PASTE(take, I_POS_WEIGHT)(t, pos_weight + at[I_POS_WEIGHT], j, n, 0))
#else
#define POS_WEIGHT(v) v
#endif
#ifdef HAS_DLOSS
#define DLOSS(v) (v * PASTE(take, I_DLOSS)(t, dloss + at[I_DLOSS], j, n, 0))
#else
#define DLOSS(v) v
#endif

// With SUMS the loss holds one sum for each chunk of CHUNK elements, else one value for each element.
KERNEL(binary_cross_entropy)(Task task, const __global IN0 *x,
       const __global IN1 *target WEIGHT_PARAMETER POS_WEIGHT_PARAMETER DLOSS_PARAMETER
                             VALUE_PARAMETER GRADIENT_PARAMETER) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_CHUNKS {
        V high = ZERO, low = ZERO, error;
        OVER_CHUNK({
            const V v = take0(t, x + at[0], j, n, 0), y = take1(t, target + at[1], j, n, 0);
            const V up = WEIGHT(POS_WEIGHT(y)), down = WEIGHT((ONE - y)), z = decay_of(v);
#ifdef VALUE
            const V both = log1p_unit(z * CONSTANT(1 / UNIT));
            V value = annihilating(up, (v < ZERO ? -v : ZERO) + both) + annihilating(down, (v > ZERO ? v : ZERO) + both);
            value = v != v ? v : value;
#ifdef SUMS
            if (j + VEC > n)
                for (int k = 0; k < VEC; k++)
                    if (j + k >= n) ((ACC *)&value)[k] = 0;
            high = two_sum(high, value, &error);
            low = low + error;
#else
            bring0(t, loss + at[INPUTS], j, n, value);
#endif
#endif
#ifdef GRADIENT
            const V sum = MAD(z, CONSTANT(1 / UNIT), ONE), small = z / sum * CONSTANT(1 / UNIT), large = ONE / sum;
            const V d = down * (v < ZERO ? small : large) - up * (v < ZERO ? large : small);
            bring_gradient(t, dx + at[GRADIENT_AT], j, n, DLOSS(CONSTANT(FACTOR)) * d);
#endif
        })
#ifdef SUMS
        Sum s = sum_lanes(&high, &low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        if (LANE == 0) loss[unit] = total(s);
#endif
    }
}

#endif
