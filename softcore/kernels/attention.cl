// attention.cl: softmax(q k^T) v without the matrix of scores, forward and backward, tile by tile: see attention.h.
//
// One side of a tile lies across lanes. It stays in local memory, turned, so that element d of all of it is one row of vectors; the
// rows of the other side pass by:
//
//                    stay                                     pass by
//   attend           queries, the sums o, the state (m, l)    keys, then values
//   query_gradients  queries, rows of do, the sums dq         keys and values
//   key_gradients    keys, values, the sums dk and dv         queries and rows of do
//   bias_gradients   queries, rows of do, a tile of dbias     keys and values
//
// So every product has one form, a patch of four rows by a few vectors: a number of what passes, times a vector of what stays or of
// the tile. Nothing is added across lanes, and what a row is to sum decides the order alone: blocks and batches do not change a bit.
// There are no atomics: each gradient is gathered by the work-group that has the rows it belongs to.
//
// The query heads that share a key head are rows of the same blocks. Where a tile has pairs that do not count, their weight is -0,
// which no exponential is: that mark keeps a product from what it must not read.
//
//   ACROSS, PASSING  queries or keys across lanes and passing in a tile
//   QW, VW           elements of a head of q and k, and of v, up to whole vectors and fours
//   APART            elements of some row are not neighbours in memory
//   RANGED, MASKED   causal masks and windows; a mask
//   SOFTCAP, SLOPES, RAGGED; I_BIAS, I_SINKS (which input they are), HAS_LSE

#define COLS (ACROSS / VEC)
#define WIDE (QW > VW ? QW : VW)
#if defined(RANGED) || defined(MASKED)
#define HIDES
#endif
// What stays are keys; or it is queries.
#ifdef OP_key_gradients
#define KEYS_STAY 1
#define SIDE PASSING
#else
#define KEYS_STAY 0
#define SIDE ACROSS
#endif
#if WG > 1
#define SYNC barrier(CLK_LOCAL_MEM_FENCE);
#define VECTORS 1
#else
#define SYNC
#define VECTORS (COLS % 2 ? 1 : 2)
#endif
// What takes an array in local memory must be inlined: PoCL moves those arrays, and loses the ones that a function of its own was
// compiled for.
#define ALONG(j) _Pragma("unroll") for (int j = 0; j < VECTORS; j++)

#if defined(OP_attend) || defined(OP_query_gradients) || defined(OP_key_gradients) || defined(OP_bias_gradients)

// ---------------------------------------------------------------- the operands

enum { OF_Q, OF_K, OF_V, OF_DO, OF_LSE, OF_DELTA };  // inputs; of attend there are three
#ifndef OP_attend
#define GRADIENTS
#endif
#define LAYOUT_AXES 4
// Elements from one of the batch's axes, head, row and element to the next.
typedef struct { long offset, batch[LAYOUT_AXES], head, row, column; } Layout;
typedef struct {
    long batch[LAYOUT_AXES], heads, group, d, dv;  // key heads, query heads for each, and sizes of heads
    long queries, keys, offset;                    // of a sequence, unless the table has them
    long left, right;                              // of the window, a causal mask included; negative where it is open
    long blocks;                                   // of each head
    Layout arg[ARGS];
    REAL number[4];  // the scale; the softcap and its reciprocal
} Attention;
// One element of the batch: where each operand starts, and how many queries and keys it has.
typedef struct { long at[ARGS], queries, keys, offset; } Sequence;
#ifdef RAGGED
#define TABLE_PARAMETER , const __global long *table
#define TABLE , table
#else
#define TABLE_PARAMETER
#define TABLE
#endif
FUNCTION Sequence sequence_of(const Attention *t, long i TABLE_PARAMETER) {
    Sequence s = {{0}, t->queries, t->keys, t->offset};
    for (int a = 0; a < ARGS; a++) s.at[a] = t->arg[a].offset;
#ifdef RAGGED  // the first row of q and how many, the same of k, and the offset
    const __global long *place = table + 5 * i;
    for (int a = 0; a < ARGS; a++)
        s.at[a] += (a == OF_K || a == OF_V || (KEYS_STAY && a >= INPUTS && a < INPUTS + OUTPUTS) ? place[2] : place[0]) * t->arg[a].row;
    s.queries = place[1];
    s.keys = place[3];
    s.offset = place[4];
#endif
    for (int d = LAYOUT_AXES - 1; d >= 0; d--) {
        for (int a = 0; a < ARGS; a++) s.at[a] += i % t->batch[d] * t->arg[a].batch[d];
        i /= t->batch[d];
    }
    return s;
}
FUNCTION long address_of(const Attention *t, const Sequence *s, int which, long head, long row) {
    return s->at[which] + head * t->arg[which].head + row * t->arg[which].row;
}

// The queries of a tile.
typedef struct {
    SIGNED first[SIDE] __attribute__((aligned(sizeof(V)))), end[SIDE] __attribute__((aligned(sizeof(V))));  // of the keys each may attend to
    ACC lse[SIDE] __attribute__((aligned(sizeof(V)))), delta[SIDE] __attribute__((aligned(sizeof(V))));
    ACC slope[SIDE];
    long query[SIDE];
    int head[SIDE];
} Queries;
#ifdef SLOPES
#define SLOPES_PARAMETER , const __global ACC *slopes
#define SLOPES_ARGUMENT , slopes
#else
#define SLOPES_PARAMETER
#define SLOPES_ARGUMENT
#endif
#ifdef GRADIENTS
#define SAVED_PARAMETER , const __global IN4 *lse, const __global IN5 *delta
#define SAVED , lse, delta
#else
#define SAVED_PARAMETER
#define SAVED
#endif
// Rows first to first + n of those of a key head: its queries, one query head after the other. What is past them repeats the last.
FUNCTION void describe(const Attention *t, const Sequence *s, __local Queries *b, long head, long first, int n SLOPES_PARAMETER SAVED_PARAMETER) {
    for (int i = LANE; i < SIDE; i += WG) {
        const long row = first + min(i, n - 1), query = row % s->queries;
        b->head[i] = head * t->group + row / s->queries;
        b->query[i] = query;
#ifdef RANGED
        const long p = query + s->offset;
        const long from = t->left >= 0 ? max(0L, p - t->left) : 0, to = t->right >= 0 ? min(s->keys, p + t->right + 1) : s->keys;
        b->first[i] = from < to ? from : 0;
        b->end[i] = from < to ? to : 0;
#endif
#ifdef SLOPES
        b->slope[i] = slopes[b->head[i]];
#endif
#ifdef GRADIENTS
        const ACC log = value4(lse + address_of(t, s, OF_LSE, b->head[i], query));
        b->lse[i] = log == INFINITY ? NAN : log;  // such a row is nan
        b->delta[i] = value5(delta + address_of(t, s, OF_DELTA, b->head[i], query));
#endif
    }
}
// From where to where some of n queries attend to keys, and all.
typedef struct { long first, end, all_first, all_end; } Hull;
FUNCTION void set_hull(Hull *h, const Sequence *s, const __local Queries *b, int n) {
    h->first = h->all_first = 0;
    h->end = h->all_end = s->keys;
#ifdef RANGED
    h->first = LONG_MAX;
    h->end = 0;
    for (int i = 0; i < n; i++) {
        if (b->first[i] < b->end[i]) {
            h->first = min(h->first, (long)b->first[i]);
            h->end = max(h->end, (long)b->end[i]);
        }
        h->all_first = max(h->all_first, (long)b->first[i]);
        h->all_end = min(h->all_end, (long)b->end[i]);
    }
#endif
}
// Whether a tile of n keys from `start` has pairs that do not count.
FUNCTION bool has_hidden(const Hull *h, long start, int n) {
#ifdef MASKED
    return true;
#else
    return h->all_first > start || h->all_end < start + n;
#endif
}

// ---------------------------------------------------------------- rows of operands

#ifdef APART
#define NEXT_TO_EACH_OTHER 0
#else
#define NEXT_TO_EACH_OTHER 1
#endif
// Rows of operand i in local memory, zeros around them: across, times a factor; or as they are, PASSING of them. The latter says
// whether some element is not finite, which a group of work-items does not look for.
#define DEFINE_ROWS(i, T, READ)                                                                                        \
    FUNCTION V elements##i(const Attention *t, const __global T *p, long j, long n) {                                    \
        if (NEXT_TO_EACH_OTHER && PASTE(BY_VECTOR_, READ) && j + VEC <= n) return PASTE(VECTOR_, READ)(p + j);         \
        V v = ZERO;                                                                                                    \
        for (int k = 0; k < VEC; k++)                                                                                  \
            if (j + k < n) ((ACC *)&v)[k] = PASTE(SCALAR_, READ)(p + (j + k) * t->arg[i].column);                      \
        return v;                                                                                                      \
    }                                                                                                                  \
    FUNCTION V part##i(const Attention *t, const Sequence *s, const __local Queries *b, long head, long first, int row, \
                     long j, const __global T *p) {                                                                    \
        const bool of_keys = i == OF_K || i == OF_V;                                                                   \
        const long at = of_keys ? address_of(t, s, i, head, first + row) : address_of(t, s, i, b->head[row], b->query[row]); \
        return elements##i(t, p + at, j, i == OF_Q || i == OF_K ? t->d : t->dv);                                       \
    }                                                                                                                  \
    FUNCTION void turn##i(__local V *to, const Attention *t, const Sequence *s, const __local Queries *b, long head, \
                        long first, int n, ACC factor, const __global T *p) {                                          \
        const int vectors = (i == OF_Q || i == OF_K ? QW : VW) / VEC;                                                  \
        for (int e = LANE; e < ACROSS * vectors; e += WG) {                                                            \
            const int row = e / vectors, j = e % vectors * VEC;                                                        \
            V v = row < n ? part##i(t, s, b, head, first, row, j, p) * CONSTANT(factor) : ZERO;                        \
            for (int k = 0; k < VEC; k++) ((__local ACC *)to)[(j + k) * ACROSS + row] = ((ACC *)&v)[k];                \
        }                                                                                                              \
    }                                                                                                                  \
    FUNCTION bool pass##i(__local V *to, const Attention *t, const Sequence *s, const __local Queries *b, long head, \
                        long first, int n, ACC factor, const __global T *p) {                                          \
        const int vectors = (i == OF_Q || i == OF_K ? QW : VW) / VEC;                                                  \
        V odd = ZERO;                                                                                                  \
        for (int e = LANE; e < PASSING * vectors; e += WG) {                                                           \
            const int row = e / vectors, j = e % vectors * VEC;                                                        \
            const V v = row < n ? part##i(t, s, b, head, first, row, j, p) : ZERO;                                     \
            odd = odd + (v - v);                                                                                       \
            to[e] = i == OF_Q ? v * CONSTANT(factor) : v;                                                              \
        }                                                                                                              \
        return WG > 1 || any(odd != odd);                                                                              \
    }
DEFINE_ROWS(0, IN0, READ0)
DEFINE_ROWS(1, IN1, READ1)
DEFINE_ROWS(2, IN2, READ2)
#ifdef GRADIENTS
DEFINE_ROWS(3, IN3, READ3)
#endif
// Results of n rows from where they lie across, elements of one row after the other.
#define DEFINE_RESULT(k, T)                                                                                            \
    FUNCTION void write##k(const __local V *from, const Attention *t, const Sequence *s, const __local Queries *b, long head, \
                         long first, int n, long d, __global T *p) {                                                   \
        const int which = INPUTS + k;                                                                                  \
        for (long e = LANE; e < n * d; e += WG) {                                                                      \
            const int row = e / d, j = e % d;                                                                          \
            const long at = KEYS_STAY ? address_of(t, s, which, head, first + row)                                     \
                                      : address_of(t, s, which, b->head[row], b->query[row]);                          \
            set##k(p + at + j * t->arg[which].column, ((const __local ACC *)from)[j * ACROSS + row]);                  \
        }                                                                                                              \
    }
DEFINE_RESULT(0, OUT0)
#ifdef OP_key_gradients
DEFINE_RESULT(1, OUT1)
#endif

// ---------------------------------------------------------------- products

// The patches of a tile of `rows` rows: four rows by VECTORS columns of vectors, from `row` and `c` on.
#define FOR_PATCHES(rows)                                                                                              \
    for (int patch = LANE, row = 0, c = 0; patch < (rows) / 4 * (COLS / VECTORS); patch += WG)                         \
        if ((row = patch % ((rows) / 4) * 4) >= 0 && (c = patch / ((rows) / 4) * VECTORS) >= 0)
typedef struct { V v[4][VECTORS]; } Patch;
// The sum over k of a[i row + k step] b[k][j]: `count` of them. The compiler is told that these are `most` at most, since without that PoCL 3.0
// loses the products of a group of work-items.
FUNCTION void multiply(Patch *x, const __local ACC *a, int row, int step, const __local V *b, int count, int most) {
    FOUR(i) ALONG(j) x->v[i][j] = ZERO;
    for (int k = 0; k < min(count, most); k++, a += step, b += COLS) {
        V y[VECTORS];
        ALONG(j) y[j] = b[j];
        FOUR(i) ALONG(j) x->v[i][j] = MAD(CONSTANT(a[i * row]), y[j], x->v[i][j]);
    }
}
#ifdef HIDES
#define MARK CONSTANT(-0.0)
FUNCTION I is_mark(V p) { return PASTE(as_, PASTE(SIGNED, VEC))(p) == PASTE(as_, PASTE(SIGNED, VEC))(MARK); }
// The same where marks[k][j] is no mark.
FUNCTION void multiply_marked(Patch *x, const __local ACC *a, int row, int step, const __local V *b, const __local V *marks, int count,
                              int most) {
    FOUR(i) ALONG(j) x->v[i][j] = ZERO;
    for (int k = 0; k < min(count, most); k++, a += step, b += COLS, marks += COLS)
        ALONG(j) {
            const V y = b[j];
            const I hidden = is_mark(marks[j]);
            FOUR(i) x->v[i][j] = hidden ? x->v[i][j] : MAD(CONSTANT(a[i * row]), y, x->v[i][j]);
        }
}
#define MULTIPLY(careful, x, a, row, step, b, marks, count)                                                            \
    if (careful)                                                                                                       \
        multiply_marked(x, a, row, step, b, marks, count, PASSING);                                                    \
    else                                                                                                               \
        multiply(x, a, row, step, b, count, PASSING);
#else
#define MULTIPLY(careful, x, a, row, step, b, marks, count) multiply(x, a, row, step, b, count, PASSING);
#endif
// sums += the transpose of the passing rows times a tile of `count` rows.
FUNCTION void add_products(__local V *sums, int width, const __local V *rows, const __local V *tile, const __local V *marks, int count,
                         bool careful) {
    FOR_PATCHES(width) {
        Patch x;
        MULTIPLY(careful, &x, (const __local ACC *)rows + row, 1, width, tile + c, marks + c, count)
        FOUR(i) ALONG(j) sums[(row + i) * COLS + c + j] = sums[(row + i) * COLS + c + j] + x.v[i][j];
    }
}
FUNCTION void clear(__local V *p, int n) {
    for (int e = LANE; e < n; e += WG) p[e] = ZERO;
}

// ---------------------------------------------------------------- scores

// tanh(x): a continued fraction, x / (1 + x^2 / (3 + x^2 / (5 + ...))), where exponentials would cancel.
#ifdef DOUBLE
#define LAST_TERM 17
#define WEIGHTLESS -708.0
#else
#define LAST_TERM 9
#define WEIGHTLESS -87.0f
#endif
FUNCTION V tanh_of(V x) {
    const V u = x < ZERO ? -x : x, w = x * x;
    V g = CONSTANT(LAST_TERM);
    for (int i = LAST_TERM - 2; i > 0; i -= 2) g = CONSTANT(i) + w / g;
    const V far = ONE - CONSTANT(2) / (exp_of(u + u, ZERO) + ONE);
    return u < CONSTANT((ACC)0.6) ? x / g : x < ZERO ? -far : x == x ? far : x;
}
// exp(t) for t <= 0 or little more, and 0 where that is hardly a normal number.
FUNCTION V weight_of(V t) {
    const I far = t < CONSTANT(WEIGHTLESS);
    const V e = exp_offset(far ? ZERO : t, CONSTANT(MAGIC + BIAS));
    return far ? ZERO : e;
}

// Pairs of a vector: row `row` of a tile, vector c of columns; keys are counted from `origin`.
#if KEYS_STAY
#define QUERY_OF(k) row
#define KEY_OF(k) (origin + c * VEC + (k))
#define OF_QUERIES(name) CONSTANT(b->name[row])
#else
#define QUERY_OF(k) (c * VEC + (k))
#define KEY_OF(k) (origin + row)
#define OF_QUERIES(name) (((const __local V *)b->name)[c])
#endif
#ifdef I_BIAS
#define BIAS_T PASTE(IN, I_BIAS)
#define BIAS_PARAMETER , const __global BIAS_T *bias
#define BIAS_ARGUMENT , bias
#else
#define BIAS_PARAMETER
#define BIAS_ARGUMENT
#endif
#ifdef HIDES
FUNCTION I shown(const Attention *t, const Sequence *s, const __local Queries *b, int row, int c, long origin MASK_PARAMETER) {
    I is = (I)(-1);
#ifdef RANGED
#if KEYS_STAY
    I key;
    for (int k = 0; k < VEC; k++) ((SIGNED *)&key)[k] = KEY_OF(k);
    is = (key >= (I)(b->first[row])) & (key < (I)(b->end[row]));
#else
    const I key = (I)((SIGNED)KEY_OF(0));
    is = (key >= ((const __local I *)b->first)[c]) & (key < ((const __local I *)b->end)[c]);
#endif
#endif
#ifdef MASKED
    for (int k = 0; k < VEC; k++) {
        const int q = QUERY_OF(k);
        const long at = address_of(t, s, MASK, b->head[q], b->query[q]) + min(KEY_OF(k), s->keys - 1) * t->arg[MASK].column;
        if (!mask[at]) ((SIGNED *)&is)[k] = 0;
    }
#endif
    return is;
}
#endif
// Scores from the products with the scaled query: softcap, bias and ALiBi. The slope of the softcap is 1 - *bend.
FUNCTION V adjusted(const Attention *t, const Sequence *s, const __local Queries *b, V x, int row, int c, long origin, V *bend BIAS_PARAMETER) {
#ifdef SOFTCAP
    const V y = tanh_of(x * CONSTANT(t->number[2]));
    *bend = y * y;
    x = y * CONSTANT(t->number[1]);
#endif
#ifdef I_BIAS
    V more;
    for (int k = 0; k < VEC; k++) {
        const int q = QUERY_OF(k);
        const long at = address_of(t, s, I_BIAS, b->head[q], b->query[q]) + min(KEY_OF(k), s->keys - 1) * t->arg[I_BIAS].column;
        ((ACC *)&more)[k] = PASTE(value, I_BIAS)(bias + at);
    }
    x = x + more;
#endif
#ifdef SLOPES
    V away;
    for (int k = 0; k < VEC; k++) ((ACC *)&away)[k] = (ACC)abs(b->query[QUERY_OF(k)] + s->offset - KEY_OF(k)) * b->slope[QUERY_OF(k)];
    x = x - away;
#endif
    return x;
}

#endif

// ---------------------------------------------------------------- attend

#ifdef OP_attend

// Work-items share the keys of a tile, where there are more of them than columns: this one has those from `part` on.
#if WG > COLS
#define PARTS (WG / COLS)
#define FOR_COLUMNS for (int c = LANE % COLS, part = LANE / COLS; c < COLS; c += COLS)
#else
#define PARTS 1
#define FOR_COLUMNS for (int c = LANE, part = 0; c < COLS; c += WG)
#endif
FUNCTION V finite_or_zero(V m) { return m - m == ZERO ? m : ZERO; }
// The largest score so far, of which NaN is left to the sum.
FUNCTION V top_of(V m, const __local V *tops, int c) {
    for (int p = 0; p < PARTS; p++) m = tops[p * COLS + c] > m ? tops[p * COLS + c] : m;
    return m;
}
#ifdef I_SINKS
#define SINKS_PARAMETER , const __global PASTE(IN, I_SINKS) *sinks
#else
#define SINKS_PARAMETER
#endif
#ifdef HAS_LSE
#define LSE_PARAMETER , __global OUT1 *lse
#else
#define LSE_PARAMETER
#endif
KERNEL(attend)(Attention task, const __global IN0 *q, const __global IN1 *k, const __global IN2 *v BIAS_PARAMETER SINKS_PARAMETER,
               __global OUT0 *o LSE_PARAMETER MASK_PARAMETER SLOPES_PARAMETER TABLE_PARAMETER) {
    const Attention *t = &task;
    __local V turned[QW * COLS], sums[VW * COLS], tile[PASSING * COLS], rows[PASSING * WIDE / VEC];
    __local V m[COLS], l[COLS], kept[COLS], tops[PARTS * COLS], masses[PARTS * COLS];
    __local I seen[PARTS * COLS];
    __local Queries queries;
    __local Queries *b = &queries;
    const long unit = get_group_id(0), head = unit / t->blocks % t->heads;
    const long first = (t->blocks - 1 - unit % t->blocks) * ACROSS;  // of a causal mask the last have most to do
    const Sequence sequence = sequence_of(t, unit / t->blocks / t->heads TABLE), *s = &sequence;
    const int count = min((long)ACROSS, t->group * s->queries - first);
    if (count <= 0) return;

    describe(t, s, b, head, first, count SLOPES_ARGUMENT);
    clear(sums, VW * COLS);
    FOR_COLUMNS {
        seen[part * COLS + c] = (I)(0);
        if (part) continue;
        m[c] = CONSTANT(-INFINITY);
        l[c] = ZERO;
    }
    SYNC
    Hull hull;
    set_hull(&hull, s, b, count);
    turn0(turned, t, s, b, head, first, count, t->number[0], q);
    for (long start = hull.first / PASSING * PASSING; start < hull.end; start += PASSING) {
        const int n = min((long)PASSING, s->keys - start);
#ifdef HIDES
        const bool hidden = has_hidden(&hull, start, n);
#endif
        pass1(rows, t, s, b, head, start, n, 1, k);
        SYNC
        FOR_PATCHES(PASSING) {
            Patch x;
            multiply(&x, (const __local ACC *)rows + row * QW, QW, 1, turned + c, t->d, QW);
            FOUR(i) ALONG(j) tile[(row + i) * COLS + c + j] = x.v[i][j];
        }
        SYNC
        FOR_COLUMNS {
            V top = CONSTANT(-INFINITY);
            for (int row = part; row < n; row += PARTS) {
                V bend, x = adjusted(t, s, b, tile[row * COLS + c], row, c, start, &bend BIAS_ARGUMENT);
#ifdef HIDES
                const I is = hidden ? shown(t, s, b, row, c, start MASK_ARGUMENT) : (I)(-1);
                x = is ? x : CONSTANT(-INFINITY);
                seen[part * COLS + c] |= is;
#endif
                tile[row * COLS + c] = x;
                top = x > top ? x : top;
            }
            tops[part * COLS + c] = top;
        }
        SYNC
        // Weights relative to the largest score; where that is infinite, so is the weight.
        FOR_COLUMNS {
            const V shift = finite_or_zero(top_of(m[c], tops, c));
            V mass = ZERO;
            for (int row = part; row < n; row += PARTS) {
                const V x = tile[row * COLS + c] - shift;
                V p = x > ZERO ? CONSTANT(INFINITY) : weight_of(x);
#ifdef HIDES
                if (hidden) p = shown(t, s, b, row, c, start MASK_ARGUMENT) ? p : MARK;
#endif
                tile[row * COLS + c] = p;
                mass = mass + p;
            }
            masses[part * COLS + c] = mass;
        }
        SYNC
        FOR_COLUMNS {
            if (part) continue;
            const V top = top_of(m[c], tops, c), x = m[c] - finite_or_zero(top);
            V mass = masses[c];
            for (int p = 1; p < PARTS; p++) mass = mass + masses[p * COLS + c];
            kept[c] = x > ZERO ? CONSTANT(INFINITY) : weight_of(x);
            l[c] = MAD(l[c], kept[c], mass);
            m[c] = top;
        }
        // By itself, and not sooner: where a head has fewer vectors than there are work-items, PoCL 3.1 and 3.0 would lose what was written.
        SYNC
        const bool odd = pass2(rows, t, s, b, head, start, n, 1, v);
        SYNC
        FOR_PATCHES(VW) {
            Patch x;
            MULTIPLY(hidden && odd, &x, (const __local ACC *)rows + row, 1, VW, tile + c, tile + c, n)
            FOUR(i) ALONG(j) sums[(row + i) * COLS + c + j] = MAD(sums[(row + i) * COLS + c + j], kept[c + j], x.v[i][j]);
        }
        SYNC
    }

    // o / l and m + log l, with a sink in the denominator.
    FOR_COLUMNS {
        if (part) continue;
        V top = m[c], mass = l[c], up = ONE;
#ifdef HIDES
        I some = seen[c];
        for (int p = 1; p < PARTS; p++) some |= seen[p * COLS + c];
#else
        const I some = (I)(s->keys > 0 ? -1 : 0);
#endif
#ifdef I_SINKS
        V sink;
        for (int e = 0; e < VEC; e++) ((ACC *)&sink)[e] = PASTE(value, I_SINKS)(sinks + address_of(t, s, I_SINKS, b->head[c * VEC + e], 0));
        top = sink > top ? sink : top;
        up = exp_of(m[c] - finite_or_zero(top), ZERO);
        mass = mass * up + exp_of(sink - finite_or_zero(top), ZERO);
#endif
        V log = top + log_of(ZERO, mass, ZERO);
        log = mass == ZERO ? CONSTANT(-INFINITY) : mass - mass == ZERO ? log : mass;
        seen[c] = some;
        kept[c] = up;
        l[c] = top == CONSTANT(INFINITY) ? CONSTANT(NAN) : mass;
        m[c] = some ? log : CONSTANT(-INFINITY);
    }
    SYNC
    for (int e = LANE, c = e % COLS; e < VW * COLS; e += WG, c = e % COLS) sums[e] = seen[c] ? sums[e] * kept[c] / l[c] : ZERO;
    SYNC
    write0(sums, t, s, b, head, first, count, t->dv, o);
#ifdef HAS_LSE
    for (int i = LANE; i < count; i += WG) set1(lse + address_of(t, s, INPUTS + 1, b->head[i], b->query[i]), ((const __local ACC *)m)[i]);
#endif
}

#endif

// ---------------------------------------------------------------- gradients

#if defined(OP_query_gradients) || defined(OP_key_gradients) || defined(OP_bias_gradients)

// The weights p of a tile, and over do v^T the slopes p (do v^T - delta) of n rows: bent by the softcap, or as they are for a bias.
// `scores` and `products` are rows of what passes, `by_scores` and `by_products` what they are multiplied with.
FUNCTION void slopes_of_tile(const Attention *t, const Sequence *s, const __local Queries *b, long origin, int n, bool hidden, bool bent,
                           const __local V *scores, const __local V *by_scores, const __local V *products, const __local V *by_products,
                           __local V *weights, __local V *tile BIAS_PARAMETER MASK_PARAMETER) {
    FOR_PATCHES(PASSING) {
        if (row >= n) continue;
        Patch x;
        multiply(&x, (const __local ACC *)scores + row * QW, QW, 1, by_scores + c, t->d, QW);
        Patch y;
        multiply(&y, (const __local ACC *)products + row * VW, VW, 1, by_products + c, t->dv, VW);
        const int top = row, left = c;
        FOUR(i) ALONG(j) {
            const int row = top + i, c = left + j;
            V bend = ZERO, z = adjusted(t, s, b, x.v[i][j], min(row, n - 1), c, origin, &bend BIAS_ARGUMENT);
            V p = weight_of(z - OF_QUERIES(lse)), ds = p * (y.v[i][j] - OF_QUERIES(delta));
#ifdef SOFTCAP
            if (bent) ds = ds * (ONE - bend);
#endif
#ifdef HIDES
            if (hidden) {
                const I is = shown(t, s, b, min(row, n - 1), c, origin MASK_ARGUMENT);
                p = is ? p : MARK;
                ds = is ? ds : ZERO;
            }
#endif
            weights[row * COLS + c] = p;
            tile[row * COLS + c] = ds;
        }
    }
}
#define GRADIENT_PARAMETERS                                                                                            \
    Attention task, const __global IN0 *q, const __global IN1 *k, const __global IN2 *v, const __global IN3 *go,       \
        const __global IN4 *lse, const __global IN5 *delta BIAS_PARAMETER

#endif
#ifdef OP_query_gradients

KERNEL(query_gradients)(GRADIENT_PARAMETERS, __global OUT0 *dq MASK_PARAMETER SLOPES_PARAMETER TABLE_PARAMETER) {
    const Attention *t = &task;
    __local V turned_q[QW * COLS], turned_do[VW * COLS], sums[QW * COLS];
    __local V keys[PASSING * QW / VEC], values[PASSING * VW / VEC], weights[PASSING * COLS], tile[PASSING * COLS];
    __local Queries queries;
    __local Queries *b = &queries;
    const long unit = get_group_id(0), head = unit / t->blocks % t->heads;
    const long first = (t->blocks - 1 - unit % t->blocks) * ACROSS;
    const Sequence sequence = sequence_of(t, unit / t->blocks / t->heads TABLE), *s = &sequence;
    const int count = min((long)ACROSS, t->group * s->queries - first);
    if (count <= 0) return;
    describe(t, s, b, head, first, count SLOPES_ARGUMENT SAVED);
    clear(sums, QW * COLS);
    SYNC
    Hull hull;
    set_hull(&hull, s, b, count);
    turn0(turned_q, t, s, b, head, first, count, t->number[0], q);
    turn3(turned_do, t, s, b, head, first, count, 1, go);
    for (long start = hull.first / PASSING * PASSING; start < hull.end; start += PASSING) {
        const int n = min((long)PASSING, s->keys - start);
        const bool hidden = has_hidden(&hull, start, n), odd = pass1(keys, t, s, b, head, start, n, 1, k);
        pass2(values, t, s, b, head, start, n, 1, v);
        SYNC
        slopes_of_tile(t, s, b, start, n, hidden, true, keys, turned_q, values, turned_do, weights, tile BIAS_ARGUMENT MASK_ARGUMENT);
        SYNC
        add_products(sums, QW, keys, tile, weights, n, hidden && odd);
        SYNC
    }
    for (int e = LANE; e < QW * COLS; e += WG) sums[e] = sums[e] * CONSTANT(t->number[0]);
    SYNC
    write0(sums, t, s, b, head, first, count, t->d, dq);
}

#endif
#ifdef OP_key_gradients

KERNEL(key_gradients)(GRADIENT_PARAMETERS, __global OUT0 *dk, __global OUT1 *dv MASK_PARAMETER SLOPES_PARAMETER TABLE_PARAMETER) {
    const Attention *t = &task;
    __local V turned_k[QW * COLS], turned_v[VW * COLS], sums_k[QW * COLS], sums_v[VW * COLS];
    __local V rows_q[PASSING * QW / VEC], rows_do[PASSING * VW / VEC], weights[PASSING * COLS], tile[PASSING * COLS];
    __local Queries queries;
    __local Queries *b = &queries;
    const long unit = get_group_id(0), head = unit / t->blocks % t->heads, first = unit % t->blocks * ACROSS;
    const Sequence sequence = sequence_of(t, unit / t->blocks / t->heads TABLE), *s = &sequence;
    const int count = min((long)ACROSS, s->keys - first);
    const long rows = t->group * s->queries;
    if (count <= 0) return;
    clear(sums_k, QW * COLS);
    clear(sums_v, VW * COLS);
    turn1(turned_k, t, s, b, head, first, count, 1, k);
    turn2(turned_v, t, s, b, head, first, count, 1, v);
    for (long start = 0; start < rows; start += PASSING) {
        const int all = min((long)PASSING, rows - start);
        describe(t, s, b, head, start, all SLOPES_ARGUMENT SAVED);
        SYNC
        Hull hull;
        set_hull(&hull, s, b, all);
        // Where none of them attends to these keys there is nothing to do. A group goes through it with no rows: PoCL 3.0 goes astray where
        // a barrier depends on a condition, though it is the same for all.
        const bool some = hull.first < first + count && hull.end > first;
        if (WG == 1 && !some) continue;
        const int n = some ? all : 0;
        const bool hidden = has_hidden(&hull, first, count), odd_q = pass0(rows_q, t, s, b, head, start, n, t->number[0], q);
        const bool odd_do = pass3(rows_do, t, s, b, head, start, n, 1, go);
        SYNC
        slopes_of_tile(t, s, b, first, n, hidden, true, rows_q, turned_k, rows_do, turned_v, weights, tile BIAS_ARGUMENT MASK_ARGUMENT);
        SYNC
        add_products(sums_v, VW, rows_do, weights, weights, n, hidden && odd_do);
        add_products(sums_k, QW, rows_q, tile, weights, n, hidden && odd_q);
        SYNC
    }
    SYNC
    write0(sums_k, t, s, b, head, first, count, t->d, dk);
    write1(sums_v, t, s, b, head, first, count, t->dv, dv);
}

#endif
#ifdef OP_bias_gradients

// The gradient of a bias is the slopes, summed over whatever shares it: heads of sequences, and for a bias that has but ONE_ROW or
// ONE_COLUMN all queries or keys. `sharers` tells where the pairs (sequence, query head) of each begin, and then has them.
KERNEL(bias_gradients)(GRADIENT_PARAMETERS, __global OUT0 *dbias MASK_PARAMETER SLOPES_PARAMETER TABLE_PARAMETER, const __global int *sharers) {
    const Attention *t = &task;
    __local V turned_q[QW * COLS], turned_do[VW * COLS], keys[PASSING * QW / VEC], values[PASSING * VW / VEC];
    __local V weights[PASSING * COLS], tile[PASSING * COLS], highs[PASSING * COLS], lows[PASSING * COLS];
    __local Queries queries;
    __local Queries *b = &queries;
#ifdef ONE_ROW
    const bool one_row = true;
#else
    const bool one_row = false;
#endif
#ifdef ONE_COLUMN
    const bool one_column = true;
#else
    const bool one_column = false;
#endif
    const long key_blocks = one_column ? 1 : (t->keys + PASSING - 1) / PASSING, unit = get_group_id(0);
    const long first_key = unit % key_blocks * PASSING, first_query = unit / key_blocks % t->blocks * ACROSS;
    const __global int *who = sharers + unit / key_blocks / t->blocks;
    clear(highs, PASSING * COLS);
    clear(lows, PASSING * COLS);
    for (int sharer = who[0]; sharer < who[1]; sharer += 2) {
        const Sequence sequence = sequence_of(t, sharers[sharer] TABLE), *s = &sequence;
        const long query_head = sharers[sharer + 1], head = query_head / t->group;
        for (long query = first_query; query < min(one_row ? t->queries : first_query + ACROSS, s->queries); query += ACROSS) {
            const long first = query_head % t->group * s->queries + query;
            const int count = min((long)ACROSS, s->queries - query);
            describe(t, s, b, head, first, count SLOPES_ARGUMENT SAVED);
            SYNC
            Hull hull;
        set_hull(&hull, s, b, count);
            turn0(turned_q, t, s, b, head, first, count, t->number[0], q);
            turn3(turned_do, t, s, b, head, first, count, 1, go);
            for (long start = first_key; start < min(one_column ? t->keys : first_key + PASSING, s->keys); start += PASSING) {
                const int n = min((long)PASSING, s->keys - start);
                pass1(keys, t, s, b, head, start, n, 1, k);
                pass2(values, t, s, b, head, start, n, 1, v);
                SYNC
                slopes_of_tile(t, s, b, start, n, has_hidden(&hull, start, n), false, keys, turned_q, values, turned_do, weights,
                               tile BIAS_ARGUMENT MASK_ARGUMENT);
                SYNC
                for (int e = LANE; e < n * COLS; e += WG) {
                    V more = tile[e], error;
                    for (int i = 0; i < VEC; i++)
                        if (e % COLS * VEC + i >= count) ((ACC *)&more)[i] = 0;
                    highs[e] = two_sum(highs[e], more, &error);
                    lows[e] = lows[e] + error;
                }
                SYNC
            }
            SYNC
        }
    }
    SYNC
    const Sequence sequence = sequence_of(t, sharers[who[0]] TABLE);
    const int rows = one_column ? 1 : min((long)PASSING, t->keys - first_key), columns = one_row ? 1 : min((long)ACROSS, t->queries - first_query);
    for (int e = LANE; e < rows * columns; e += WG) {
        const int row = e % rows, column = e / rows;
        Sum sum = {0, 0};
        for (int r = row; r < (one_column ? PASSING : row + 1); r++)
            for (int i = column; i < (one_row ? ACROSS : column + 1); i++) {
                const Sum part = {((const __local ACC *)highs)[r * ACROSS + i], ((const __local ACC *)lows)[r * ACROSS + i]};
                sum = add_sums(sum, part);
            }
        set0(dbias + address_of(t, &sequence, INPUTS, sharers[who[0] + 1], first_query + column) + (first_key + row) * t->arg[INPUTS].column,
             total(sum));
    }
}

#endif
#ifdef OP_sink_gradients

// The gradient of a sink, -sum of exp(sink - lse) delta over the rows of its query head.
FUNCTION void sink_tile(const Task *t, const __global IN0 *lse, const __global IN1 *delta, long j, long n, V sink, V *high, V *low) {
    V e[4];
    FOUR(k) {
        const V log = take0(t, lse, j + k * STEP, n, -INFINITY);
        V lost, z = two_sum(sink, -log, &lost), p = exp_of(z, lost);
        p = log == CONSTANT(INFINITY) ? CONSTANT(NAN) : p;
        e[k] = log == CONSTANT(-INFINITY) ? ZERO : p * take1(t, delta, j + k * STEP, n, 0);
    }
    add_tile(high, low, e);
}
KERNEL(sink_gradients)(Task task, const __global IN0 *lse, const __global IN1 *delta, const __global IN2 *sinks, __global OUT0 *dsinks) {
    const Task *t = &task;
    SCRATCH(Sum, sums)
    FOR_ROWS {
        const V sink = CONSTANT(n ? value2(sinks + at[2]) : 0);
        ACCUMULATORS(high, low)
        OVER_TILES(sink_tile(t, lse + at[0], delta + at[1], j, end, sink, high + chain, low + chain))
        Sum s = sum_lanes(high, low);
        OVER_GROUP(sums, s, add_sums(sums[own], sums[other]))
        SET(0, dsinks + at[3], -total(s))
    }
}

#endif

// ---------------------------------------------------------------- merge

#ifdef OP_merge_parts

// Rows of o and lse of one more part, added to the state (sum, m, l) of those before, unless it is the FIRST; after the LAST the state
// becomes o and lse. A part whose lse is -inf adds nothing but its NaN. Sums start at -0, which leaves even a zero its sign.
#ifdef FIRST
#define STATE_PARAMETER
#else
#define STATE_PARAMETER , const __global IN2 *sum, const __global IN3 *m, const __global IN4 *l
#endif
#ifdef LAST
#define STATE_RESULT
#else
#define STATE_RESULT , __global OUT2 *l_out
#endif
FUNCTION ACC exp_of_one(ACC x) { return of_row(exp_of(CONSTANT(x), ZERO)); }
KERNEL(merge_parts)(Task task, const __global IN0 *o, const __global IN1 *lse STATE_PARAMETER, __global OUT0 *o_out,
                    __global OUT1 *m_out STATE_RESULT) {
    const Task *t = &task;
    FOR_ROWS {
        ACC old = -INFINITY, mass = 0;
        const ACC log = n ? value1(lse + at[1]) : -INFINITY;
#ifndef FIRST
        if (n) {
            old = value3(m + at[3]);
            mass = value4(l + at[4]);
        }
#endif
        const ACC top = log > old ? log : old, kept = old == -INFINITY ? 0 : exp_of_one(old - top);
        const ACC taken = log == -INFINITY ? 0 : exp_of_one(log - top);
        mass = mass * kept + taken;
        for (long j = LANE * VEC; j < n; j += STEP) {
            const V x = take0(t, o + at[0], j, n, 0), nothing = CONSTANT(-0.0);
            const V more = log == -INFINITY ? (x != x ? x : nothing) : CONSTANT(taken) * x;
#ifdef FIRST
            V y = more;
#else
            V y = take2(t, sum + at[2], j, n, 0) * CONSTANT(kept) + more;
#endif
#ifdef LAST
            y = mass != 0 ? y / CONSTANT(mass) : y + ZERO;
#endif
            put0(t, o_out + at[INPUTS], j, n, y);
        }
#ifdef LAST
        SET(1, m_out + at[INPUTS + 1], mass == 0 ? -INFINITY : mass - mass == 0 ? top + of_row(log_of(ZERO, CONSTANT(mass), ZERO)) : mass)
#else
        SET(1, m_out + at[INPUTS + 1], top)
        SET(2, l_out + at[INPUTS + 2], mass)
#endif
    }
}

#endif
