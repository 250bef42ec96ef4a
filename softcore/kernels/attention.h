// attention.h: softmax(q k^T) v without the matrix of scores, forward and backward.
//
// Query rows go in strips, keys in chunks of a fixed length, and a strip meets a chunk in a tile of scores:
//
//             keys   0 ........ 255 | 256 ...... 511 | 512 ...
//   strip 0          scores of the  |
//   (rows)           first tile     |      ...
//
//   attend    for each chunk: scores = q k^T, weights p = exp(scores - top of the chunk), state (m, l, o) merged with
//             (top, sum of p, p v); in the end o / l and m + log l
//   gradients for each chunk: p = exp(scores - lse), ds = p (do v^T - do . o), and dv += p^T do, dk += ds^T q, dq += ds k
//
// The query heads that share a key head are rows of the same strips.  A chunk's state starts empty and is merged in the order of
// chunks, and what a row sums depends on the keys alone, so neither strips nor threads change a bit.  Causal masks, windows
// and lengths leave each row a range of keys: tiles without a row's range are skipped, blocks of six rows are cut to theirs.
// Where a row of a tile has keys that do not count, their weight is -0, which no exponential is: that mark keeps what the
// products must not read.
#pragma once
#include <new>
#include <sched.h>
#include "mixtures.h"
#include "microkernel.h"

namespace softcore {
namespace {

static constexpr ptrdiff_t CHUNK_KEYS = 256, PITCH = CHUNK_KEYS + 16, BLOCK = 6, STRIP = 192, BLOCKS = STRIP / BLOCK;

// ---------------------------------------------------------------- the operands

enum Operands { OF_Q, OF_K, OF_V, OF_O, OF_LSE, OF_MASK, OF_BIAS, OF_DO, OF_DQ, OF_DK, OF_DV, OF_DBIAS, ATTENTION_OPERANDS };
// Bytes from one head, row and element to the next.
struct Layout { ptrdiff_t head, row, column; int code; bool given; };
// One element of the batch: where each operand starts, and how many queries and keys it has.
struct Sequence { char *at[ATTENTION_OPERANDS]; ptrdiff_t queries, keys, offset; };
struct Attention {
    Layout layout[ATTENTION_OPERANDS];
    ptrdiff_t group, d, dv;    // query heads for each key head, and sizes of heads
    double scale, softcap;     // softcap is 0 where there is none
    bool causal;
    ptrdiff_t left, right;     // of the window; negative where it is open
    const double *slopes, *sinks;  // one a query head, or NULL
};
INLINE char *address_of(const Attention *t, const Sequence *s, int which, ptrdiff_t head, ptrdiff_t row) {
    return s->at[which] + head * t->layout[which].head + row * t->layout[which].row;
}

struct Range { ptrdiff_t first, end; };
INLINE bool any(Range a) { return a.first < a.end; }
INLINE Range within(Range a, ptrdiff_t start, ptrdiff_t n) {  // the part from start to start + n, counted from there
    const Range b = {std::max(a.first - start, (ptrdiff_t)0), std::min(a.end - start, n)};
    return any(b) ? b : Range{0, 0};
}
INLINE Range hull(Range a, Range b) { return !any(a) ? b : !any(b) ? a : Range{std::min(a.first, b.first), std::max(a.end, b.end)}; }
// The keys that a query may attend to, as far as its place decides.
INLINE Range keys_of(const Attention *t, const Sequence *s, ptrdiff_t query) {
    const ptrdiff_t p = query + s->offset;
    Range a = {0, s->keys};
    if (t->causal) a.end = std::min(a.end, p + 1);
    if (t->left >= 0) a.first = std::max(a.first, p - t->left);
    if (t->right >= 0) a.end = std::min(a.end, p + t->right + 1);
    return any(a) ? a : Range{0, 0};
}

// A row of n elements, whatever they are, as accumulators; and back.
template <class A> void take_row(A *to, const char *p, ptrdiff_t column, ptrdiff_t n, int code) {
    const ptrdiff_t L = lanes<A>();
    if (sizeof(A) == 4 && column == 2 && (code == HALF || code == BFLOAT16)) {
        for (ptrdiff_t j = 0; j < n; j += L) {
            const Lanes<float> x = code == HALF ? load_some<half>((const half *)p + j, n - j, 0) : load_some<bfloat16>((const bfloat16 *)p + j, n - j, 0);
            store_some<float>((float *)to + j, x, n - j);
        }
        return;
    }
    if (readable<A>(code, column)) std::memcpy(to, p, n * sizeof(A));
    else gather<A>(to, p, column, n, code);
}
template <class A> void put_row_of(char *p, ptrdiff_t column, const A *from, ptrdiff_t n, int code) {
    const ptrdiff_t L = lanes<A>();
    if (sizeof(A) == 4 && column == 2 && (code == HALF || code == BFLOAT16)) {
        for (ptrdiff_t j = 0; j < n; j += L) {
            const Lanes<float> x = load_some<float>((const float *)from + j, n - j, 0);
            if (code == HALF) store_some<half>((half *)p + j, x, n - j); else store_some<bfloat16>((bfloat16 *)p + j, x, n - j);
        }
        return;
    }
    if (readable<A>(code, column)) std::memcpy(p, from, n * sizeof(A));
    else put_results<A>(p, column, from, n, code);
}
template <class A> INLINE ptrdiff_t whole_width(ptrdiff_t n) { return (n + lanes<A>() - 1) / lanes<A>() * lanes<A>(); }
template <class A> bool all_finite(const A *x, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t n) {  // n: whole lanes
    Lanes<A> sum = constant<Lanes<A>>(0);
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < n; j += lanes<A>()) {
            const Lanes<A> y = load<A>(x + i * step + j);
            sum = sum + (y - y);  // NaN from the first that is not finite
        }
    return all(sum == constant<Lanes<A>>(0));
}

// Rows of a chunk: as they lie, or copied with zeros up to whole lanes.
template <class A> struct Rows { const A *data; ptrdiff_t step; };
template <class A> Rows<A> rows_of_chunk(const Attention *t, const Sequence *s, int which, ptrdiff_t head, ptrdiff_t start, Range r, ptrdiff_t d, A *room) {
    const Layout &a = t->layout[which];
    const char *p = address_of(t, s, which, head, start);
    if (a.code == code_of_storage((A *)nullptr) && a.column == (ptrdiff_t)sizeof(A) && d % lanes<A>() == 0 && a.row % (ptrdiff_t)sizeof(A) == 0 &&
        (uintptr_t)p % sizeof(A) == 0)
        return {(const A *)p, a.row / (ptrdiff_t)sizeof(A)};
    const ptrdiff_t width = whole_width<A>(d);
    for (ptrdiff_t j = r.first; j < r.end; j++) {
        take_row<A>(room + j * width, p + j * a.row, a.column, d, a.code);
        for (ptrdiff_t i = d; i < width; i++) room[j * width + i] = 0;
    }
    return {room, width};
}
template <class A> INLINE void ask_for(Rows<A> rows, Range r, ptrdiff_t d) {
    for (ptrdiff_t i = r.first; i < r.end; i++)
        for (ptrdiff_t j = 0; j < d; j += 64 / (ptrdiff_t)sizeof(A)) __builtin_prefetch(rows.data + i * rows.step + j, 0, 2);
}
// The rows r of a chunk as columns, PITCH from one row to the next, with zeros up to whole lanes on either side.  `later` are rows
// that will be needed next.
template <class A> void turn_chunk(A *to, Rows<A> rows, Range r, ptrdiff_t d, Rows<A> later, ptrdiff_t later_d) {
    const ptrdiff_t L = lanes<A>();
    for (ptrdiff_t g = r.first / L * L; g < r.end; g += L) {
        const ptrdiff_t first = std::max(g, r.first), end = std::min(g + L, r.end);
        ask_for(rows, {end, std::min(end + L, r.end)}, d);
        ask_for(later, {first, end}, later_d);
        if (end - first == L && turn_in<A>(to + g, PITCH, rows.data + g * rows.step, rows.step * (ptrdiff_t)sizeof(A), d)) continue;
        for (ptrdiff_t j = 0; j < d; j++)
            for (ptrdiff_t i = 0; i < L; i++) to[j * PITCH + g + i] = g + i >= first && g + i < end ? rows.data[(g + i) * rows.step + j] : 0;
    }
}

// ---------------------------------------------------------------- a strip

// Scratch of one thread.  All of it is linear in the sizes of heads.
template <class A> struct Strip {
    ptrdiff_t rows, head[STRIP], query[STRIP];
    Range keys[STRIP], here[STRIP];           // of all keys, and of the chunk at hand
    Range all, chunk, block[BLOCKS];          // what they span
    bool marked;                              // some row of the tile has keys that do not count
    bool seen[STRIP];                         // whether any key counted so far
    A m[STRIP], l[STRIP], top[STRIP], mass[STRIP], kept[STRIP], taken[STRIP];  // the state, and that of the chunk
    A lse[STRIP], delta[STRIP];               // for gradients
    unsigned char mask[CHUNK_KEYS];
    A bias[CHUNK_KEYS];
    // STRIP x PITCH; rows x whole widths; chunks, turned and as rows
    A *scores, *slopes, *bends, *q, *o, *turned_k, *turned_v, *k, *v, *dk, *dv;
};
template <class A> INLINE ptrdiff_t strip_rows(const A *, bool gradients) { return sizeof(A) == 8 || gradients ? STRIP / 2 : STRIP; }
// Bytes of a strip's scratch; with `at`, its arrays are laid out there.
template <class A> ptrdiff_t scratch_size(const Attention *t, bool gradients, char *at, Strip<A> **made) {
    const ptrdiff_t rows = strip_rows((A *)nullptr, gradients), qw = whole_width<A>(t->d), vw = whole_width<A>(t->dv);
    ptrdiff_t used = 0;
    auto take = [&](ptrdiff_t n) {
        A *p = (A *)(at + used);
        used += (n * (ptrdiff_t)sizeof(A) + 127) / 64 * 64;
        return p;
    };
    Strip<A> b;
    used = (sizeof b + 63) / 64 * 64;
    b.scores = take(rows * PITCH);
    b.q = take(rows * qw);
    b.o = take(rows * vw);
    b.turned_k = take((t->d + 7) / 8 * 8 * PITCH);  // turned eight by eight
    b.k = take(CHUNK_KEYS * qw);
    b.v = take(CHUNK_KEYS * vw);
    if (gradients) {
        b.slopes = take(rows * PITCH);
        b.bends = take(t->softcap ? rows * PITCH : 0);
        b.turned_v = take((t->dv + 7) / 8 * 8 * PITCH);
        b.dk = take(CHUNK_KEYS * qw);
        b.dv = take(CHUNK_KEYS * vw);
    }
    if (at) *made = new (at) Strip<A>(b);
    return used;
}

// Rows first to first + rows of those of a key head: its queries, one query head after the other.
template <class A> void open_strip(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t first, ptrdiff_t rows, Strip<A> *b) {
    b->rows = rows;
    b->all = {0, 0};
    for (ptrdiff_t i = 0; i < rows; i++) {
        b->head[i] = head * t->group + (first + i) / s->queries;
        b->query[i] = (first + i) % s->queries;
        b->keys[i] = keys_of(t, s, b->query[i]);
        b->all = hull(b->all, b->keys[i]);
        b->seen[i] = false;
        b->m[i] = -INFINITY;
        b->l[i] = 0;
    }
}
// Rows of q or do, in whole lanes, times a factor.
template <class A> void take_rows(const Attention *t, const Sequence *s, int which, const Strip<A> *b, ptrdiff_t d, A factor, A *to) {
    const ptrdiff_t L = lanes<A>(), width = whole_width<A>(d);
    for (ptrdiff_t i = 0; i < b->rows; i++, to += width) {
        take_row<A>(to, address_of(t, s, which, b->head[i], b->query[i]), t->layout[which].column, d, t->layout[which].code);
        for (ptrdiff_t j = d; j < width; j++) to[j] = 0;
        if (factor != 1)
            for (ptrdiff_t j = 0; j < width; j += L) store<A>(to + j, load<A>(to + j) * splat<A>(factor));
    }
}
// The tile of a strip and a chunk: what of it each row and each block needs.
template <class A> bool meet(const Attention *t, Strip<A> *b, ptrdiff_t start) {
    b->chunk = within(b->all, start, CHUNK_KEYS);
    if (!any(b->chunk)) return false;
    b->marked = t->layout[OF_MASK].given;
    b->chunk = {0, 0};
    for (ptrdiff_t i = 0; i < b->rows; i++) {
        if (i % BLOCK == 0) b->block[i / BLOCK] = {0, 0};
        b->here[i] = within(b->keys[i], start, CHUNK_KEYS);
        b->block[i / BLOCK] = hull(b->block[i / BLOCK], b->here[i]);
        b->chunk = hull(b->chunk, b->here[i]);
    }
    for (ptrdiff_t i = 0; i < b->rows && !b->marked; i++) b->marked = b->here[i].first != b->chunk.first || b->here[i].end != b->chunk.end;
    return any(b->chunk);
}
INLINE bool meet(Range a, Range b) { return a.first < b.end && b.first < a.end; }
// Calls f(first row, rows, range) for blocks that agree on the range that `of` gives them; an empty one is left out.
template <class A, class Of, class F> INLINE void over_blocks(const Strip<A> *b, Of of, F f) {
    const ptrdiff_t blocks = (b->rows + BLOCK - 1) / BLOCK;
    for (ptrdiff_t i = 0, j; i < blocks; i = j) {
        const Range r = of(b->block[i]);
        for (j = i + 1; j < blocks; j++) {
            const Range other = of(b->block[j]);
            if (other.first != r.first || other.end != r.end) break;
        }
        if (any(r)) f(i * BLOCK, std::min(j * BLOCK, b->rows) - i * BLOCK, r);
    }
}
// scores = rows of a times the turned chunk, a panel of columns after the other so that it stays close.
template <class A> void score(const Strip<A> *b, A *scores, const A *a, ptrdiff_t width, const A *turned, ptrdiff_t d) {
    const ptrdiff_t panel = 4 * SOFTCORE_VECTOR / (ptrdiff_t)sizeof(A), end = whole_width<A>(b->chunk.end), L = lanes<A>();
    for (ptrdiff_t j = b->chunk.first / L * L; j < end; j += panel) {
        const Range columns = {j, std::min(j + panel, end)};
        over_blocks(b, [=](Range r) { return meet(r, columns) ? columns : Range{0, 0}; }, [=](ptrdiff_t i, ptrdiff_t rows, Range) {
            multiply(Product<A>{scores + i * PITCH + j, PITCH, a + i * width, width, 1, turned + j, PITCH, rows, columns.end - j, d, STORE, nullptr, nullptr, nullptr, 0});
        });
    }
}
// c (op)= weights times the rows of a chunk.  `next` are rows that will be needed then.
template <class A> void gather_rows(const Strip<A> *b, A *c, ptrdiff_t width, const A *weights, Rows<A> rows, int mode, Rows<A> next) {
    const bool careful = b->marked && !all_finite(rows.data + b->chunk.first * rows.step, rows.step, b->chunk.end - b->chunk.first, width);
    over_blocks(b, [](Range r) { return r; }, [=](ptrdiff_t i, ptrdiff_t n, Range r) {
        const A *a = weights + i * PITCH + r.first;
        const Product<A> p = {c + i * width, width, a, PITCH, 1, rows.data + r.first * rows.step, rows.step, n, width, r.end - r.first, mode, b->kept + i, b->taken + i, i ? nullptr : next.data, next.step};
        if (careful) multiply_marked(p, b->scores + i * PITCH + r.first, PITCH, 1); else multiply(p);
    });
}
// c += the transpose of weights, of the chunk's keys, times the rows of a strip.
template <class A> void spread_rows(const Strip<A> *b, A *c, ptrdiff_t width, const A *weights, const A *rows) {
    const bool careful = b->marked && !all_finite(rows, width, b->rows, width);
    for (ptrdiff_t j = b->chunk.first, end; j < b->chunk.end; j = end) {
        end = b->marked ? std::min(j + BLOCK, b->chunk.end) : b->chunk.end;
        ptrdiff_t first = 0, last = b->rows;  // the rows that have a key of these
        while (first < last && !meet(b->block[first / BLOCK], {j, end})) first += BLOCK;
        while (last > first && !meet(b->block[(last - 1) / BLOCK], {j, end})) last = (last - 1) / BLOCK * BLOCK;
        if (first >= last) continue;
        const A *a = weights + first * PITCH + j;
        const Product<A> p = {c + j * width, width, a, 1, PITCH, rows + first * width, width, end - j, width, last - first, ADD, nullptr, nullptr, nullptr, 0};
        if (careful) multiply_marked(p, b->scores + first * PITCH + j, 1, PITCH); else multiply(p);
    }
}

// ---------------------------------------------------------------- a row of scores

// tanh(x): a polynomial of it where exponentials would cancel.
template <class S> INLINE Lanes<S> tanh_of(Lanes<S> x) {
    typedef Lanes<S> P;
    const P zero = constant<P>(0), one = constant<P>(1), two = constant<P>(2), u = greater(x, zero - x);
    const P e = exponential<S>(two * u), far = one - two / (e + one);
    // the continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...)))
    const P w = x * x;
    P g = constant<P>(sizeof(acc<S>) == 4 ? 9 : 17);
    for (int i = sizeof(acc<S>) == 4 ? 7 : 15; i > 0; i -= 2) g = constant<P>(i) + w / g;
    const P near = x / g;
    return select(u < constant<P>(0.6), near, select(x < zero, zero - far, select(x == x, far, x)));
}
// The scores of one row, from the products with the scaled query: softcap, bias and ALiBi, and -inf where the mask is False.
// Returns whether any key counts.  With `bends`, the squares of tanh go there.
template <class A> bool adjust(const Attention *t, const Sequence *s, Strip<A> *b, ptrdiff_t i, ptrdiff_t start, A *x, A *bends) {
    typedef Lanes<A> P;
    const ptrdiff_t L = lanes<A>(), head = b->head[i], query = b->query[i];
    const Range r = b->here[i];
    if (!any(r)) return false;
    if (t->softcap)
        for (ptrdiff_t j = r.first / L * L; j < r.end; j += L) {
            const P y = tanh_of<A>(load<A>(x + j) * constant<P>(1 / t->softcap));
            if (bends) store<A>(bends + j, y * y);
            store<A>(x + j, y * constant<P>(t->softcap));
        }
    if (t->layout[OF_BIAS].given) {
        const Layout &a = t->layout[OF_BIAS];
        take_row<A>(b->bias + r.first, address_of(t, s, OF_BIAS, head, query) + (start + r.first) * a.column, a.column, r.end - r.first, a.code);
        for (ptrdiff_t j = r.first; j < r.end; j++) x[j] += b->bias[j];
    }
    if (t->slopes) {
        const ptrdiff_t p = query + s->offset;
        for (ptrdiff_t j = r.first; j < r.end; j++) {
            const ptrdiff_t away = p - (start + j);
            x[j] -= (A)t->slopes[head] * (A)(away < 0 ? -away : away);
        }
    }
    if (!t->layout[OF_MASK].given) return true;
    const Layout &a = t->layout[OF_MASK];
    gather<unsigned char>(b->mask + r.first, address_of(t, s, OF_MASK, head, query) + (start + r.first) * a.column, a.column, r.end - r.first, BOOL);
    unsigned char some = 0;
    for (ptrdiff_t j = r.first; j < r.end; j++) {  // without a branch, which no processor would foresee
        some |= b->mask[j];
        x[j] = b->mask[j] ? x[j] : -INFINITY;
    }
    return some != 0;
}
// What does not count of a row of a tile takes the mark.
template <class A> void mark(const Attention *t, const Strip<A> *b, ptrdiff_t i, A *p) {
    const Range r = any(b->here[i]) ? b->here[i] : Range{b->chunk.end, b->chunk.end}, c = b->chunk;
    std::fill(p + c.first, p + r.first, (A)-0.0);
    std::fill(p + r.end, p + c.end, (A)-0.0);
    if (t->layout[OF_MASK].given)
        for (ptrdiff_t j = r.first; j < r.end; j++) p[j] = b->mask[j] ? p[j] : (A)-0.0;
}
template <class A> struct Weigh;
template <> struct Weigh<float> { static constexpr double lowest = -87; };
template <> struct Weigh<double> { static constexpr double lowest = -708; };
// exp(t) for t <= 0 or little more, and 0 where that is hardly a normal number.
template <class A> INLINE Lanes<A> weight_of(Lanes<A> t) {
    typedef Lanes<A> P;
    const P low = constant<P>(Weigh<A>::lowest), zero = constant<P>(0);
    return value(exp_term<false, false>(greater(low, t), zero, constant<P>(Exp<A>::magic + Exp<A>::steps * Exp<A>::bias), where(t >= low)));
}
// Scores become weights relative to their top; their sum.
template <class A> void weigh_row(const Range r, A *x, A *top, A *mass) {
    typedef Lanes<A> P;
    const ptrdiff_t L = lanes<A>(), first = r.first / L * L, end = whole_width<A>(r.end);
    std::fill(x + first, x + r.first, (A)-INFINITY);
    std::fill(x + r.end, x + end, (A)-INFINITY);
    P m0 = constant<P>(-INFINITY), m1 = m0;
    ptrdiff_t j = first;
    for (; j + 2 * L <= end; j += 2 * L) {  // NaN is left to the sum
        m0 = greater(load<A>(x + j), m0);
        m1 = greater(load<A>(x + j + L), m1);
    }
    if (j < end) m0 = greater(load<A>(x + j), m0);
    const A m = largest<A>(greater(m0, m1));
    *top = *mass = m;
    if (m == INFINITY) {  // the row is nan; its lse is, if a score is
        for (j = first; j < end; j++) *mass = x[j] == x[j] ? *mass : x[j];
        return std::fill(x + first, x + end, (A)NAN);
    }
    const P shift = splat<A>(m == -INFINITY ? 0 : m);
    P s0 = constant<P>(0), s1 = s0;
    for (j = first; j + 2 * L <= end; j += 2 * L) {
        const P p0 = weight_of<A>(load<A>(x + j) - shift), p1 = weight_of<A>(load<A>(x + j + L) - shift);
        store<A>(x + j, p0);
        store<A>(x + j + L, p1);
        s0 = s0 + p0;
        s1 = s1 + p1;
    }
    if (j < end) {
        const P p = weight_of<A>(load<A>(x + j) - shift);
        store<A>(x + j, p);
        s0 = s0 + p;
    }
    *mass = (A)sum_lanes<A>(s0 + s1);
}

// ---------------------------------------------------------------- attend

// (m, l) merged with (top, mass), for all rows of the strip; `kept` and `taken` are what the sums are multiplied by.
template <class A> void merge_states(Strip<A> *b) {
    typedef Lanes<A> P;
    for (ptrdiff_t i = 0; i < b->rows; i += lanes<A>()) {
        const P old = load<A>(b->m + i), top = load<A>(b->top + i), m = greater(old, top);
        const P shift = select(m - m == constant<P>(0), m, constant<P>(0));
        const P kept = exponential<A>(old - shift), taken = exponential<A>(top - shift);
        store<A>(b->m + i, m);
        store<A>(b->l + i, mad(load<A>(b->l + i), kept, load<A>(b->mass + i) * taken));
        store<A>(b->kept + i, kept);
        store<A>(b->taken + i, taken);
    }
}
// A strip absorbs the chunk at `start`; or with `part` the chunk's own sums go there, and its state is left in top, mass and seen.
template <class A> void attend_chunk(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t start, Strip<A> *b, A *part) {
    const ptrdiff_t qw = whole_width<A>(t->d), vw = whole_width<A>(t->dv);
    if (part) std::fill_n(part, b->rows * vw, (A)0);
    if (!meet(t, b, start)) {
        std::fill_n(b->top, b->rows, (A)-INFINITY);
        std::fill_n(b->mass, b->rows, (A)0);
        return;
    }
    const Rows<A> k = rows_of_chunk(t, s, OF_K, head, start, b->chunk, t->d, b->k), v = rows_of_chunk(t, s, OF_V, head, start, b->chunk, t->dv, b->v);
    turn_chunk(b->turned_k, k, b->chunk, t->d, v, t->dv);
    score(b, b->scores, b->q, qw, b->turned_k, t->d);
    for (ptrdiff_t i = 0; i < b->rows; i++) {
        A *x = b->scores + i * PITCH;
        b->seen[i] |= adjust<A>(t, s, b, i, start, x, nullptr);
        weigh_row(b->here[i], x, b->top + i, b->mass + i);
        if (b->marked) mark(t, b, i, x);
    }
    if (!part) merge_states(b);
    const bool more = start + CHUNK_KEYS < b->all.end && k.data != b->k;
    gather_rows(b, part ? part : b->o, vw, b->scores, v, part ? STORE : MERGE, Rows<A>{more ? k.data + CHUNK_KEYS * k.step : nullptr, k.step});
}
// The same from what another thread left of the chunk.
template <class A> void absorb_part(const Attention *t, Strip<A> *b, const A *part) {
    const ptrdiff_t L = lanes<A>(), vw = whole_width<A>(t->dv);
    merge_states(b);
    for (ptrdiff_t i = 0; i < b->rows; i++, part += vw)
        for (ptrdiff_t j = 0; j < vw; j += L) {
            A *o = b->o + i * vw + j;
            store<A>(o, mad(load<A>(o), splat<A>(b->kept[i]), load<A>(part + j) * splat<A>(b->taken[i])));
        }
}
// o / l and m + log l, with a sink in the denominator.
template <class A> void finish_strip(const Attention *t, const Sequence *s, Strip<A> *b) {
    const ptrdiff_t L = lanes<A>(), vw = whole_width<A>(t->dv);
    for (ptrdiff_t i = 0; i < b->rows; i++) {
        A *o = b->o + i * vw;
        double m = b->m[i], l = b->l[i], factor = 1;
        if (t->sinks) {
            const double sink = t->sinks[b->head[i]], top = std::max(m, sink), shift = std::isfinite(top) ? top : 0;
            factor = std::exp(m - shift);
            l = l * factor + std::exp(sink - shift);
            m = top;
        }
        if (b->seen[i]) {
            const Lanes<A> up = splat<A>((A)factor), down = splat<A>(m == INFINITY ? (A)NAN : (A)l);
            for (ptrdiff_t j = 0; j < vw; j += L) store<A>(o + j, load<A>(o + j) * up / down);
        } else {
            std::fill_n(o, vw, (A)0);
        }
        put_row_of<A>(address_of(t, s, OF_O, b->head[i], b->query[i]), t->layout[OF_O].column, o, t->dv, t->layout[OF_O].code);
        if (!t->layout[OF_LSE].given) continue;
        const A lse = b->seen[i] ? (A)(m + std::log(l)) : (A)-INFINITY;
        put_row_of<A>(address_of(t, s, OF_LSE, b->head[i], b->query[i]), 0, &lse, 1, t->layout[OF_LSE].code);
    }
}
// A whole strip.
template <class A> void attend_strip(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t first, ptrdiff_t rows, Strip<A> *b) {
    open_strip(t, s, head, first, rows, b);
    take_rows(t, s, OF_Q, b, t->d, (A)t->scale, b->q);
    std::fill_n(b->o, rows * whole_width<A>(t->dv), (A)0);
    for (ptrdiff_t start = b->all.first / CHUNK_KEYS * CHUNK_KEYS; start < b->all.end; start += CHUNK_KEYS) attend_chunk<A>(t, s, head, start, b, nullptr);
    finish_strip(t, s, b);
}
// Or one chunk of it, and later all: a part is the sums of the chunk, then top, mass and whether a key counts, of each row.
template <class A> INLINE ptrdiff_t row_width(const A *, ptrdiff_t n) { return whole_width<A>(n); }
template <class A> INLINE ptrdiff_t part_size(const A *, const Attention *t, ptrdiff_t rows) { return rows * (whole_width<A>(t->dv) + 3); }
template <class A> void attend_part(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t start, Strip<A> *b, A *part) {
    A *state = part + rows * whole_width<A>(t->dv);
    open_strip(t, s, head, first, rows, b);
    take_rows(t, s, OF_Q, b, t->d, (A)t->scale, b->q);
    attend_chunk<A>(t, s, head, start, b, part);
    for (ptrdiff_t i = 0; i < rows; i++) {
        state[i] = b->top[i];
        state[rows + i] = b->mass[i];
        state[2 * rows + i] = b->seen[i];
    }
}
template <class A> void merge_strip(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t first, ptrdiff_t rows, Strip<A> *b, const A *part) {
    const ptrdiff_t size = part_size(part, t, rows), sums = rows * whole_width<A>(t->dv);
    open_strip(t, s, head, first, rows, b);
    std::fill_n(b->o, sums, (A)0);
    for (ptrdiff_t start = 0; start < s->keys; start += CHUNK_KEYS, part += size) {
        if (start + CHUNK_KEYS <= b->all.first || start >= b->all.end) continue;
        std::copy_n(part + sums, rows, b->top);
        std::copy_n(part + sums + rows, rows, b->mass);
        for (ptrdiff_t i = 0; i < rows; i++) b->seen[i] |= part[sums + 2 * rows + i] != 0;
        absorb_part(t, b, part);
    }
    finish_strip(t, s, b);
}

// ---------------------------------------------------------------- gradients

// Of each row the rows of q and do, lse, and delta = do . o.
template <class A> void open_gradients(const Attention *t, const Sequence *s, Strip<A> *b) {
    const ptrdiff_t L = lanes<A>(), vw = whole_width<A>(t->dv);
    take_rows(t, s, OF_Q, b, t->d, (A)t->scale, b->q);
    take_rows(t, s, OF_DO, b, t->dv, (A)1, b->o);
    for (ptrdiff_t i = 0; i < b->rows; i++) {
        const char *o = address_of(t, s, OF_O, b->head[i], b->query[i]);
        const Layout &a = t->layout[OF_O];
        Lanes<A> sum = constant<Lanes<A>>(0);
        for (ptrdiff_t j = 0; j < t->dv; j += L) {
            A room[lanes<A>()] = {};
            take_row<A>(room, o + j * a.column, a.column, std::min(L, t->dv - j), a.code);
            sum = mad(load<A>(room), load<A>(b->o + i * vw + j), sum);
        }
        b->delta[i] = (A)sum_lanes<A>(sum);
        take_row<A>(b->lse + i, address_of(t, s, OF_LSE, b->head[i], b->query[i]), sizeof(A), 1, t->layout[OF_LSE].code);
        if (b->lse[i] == INFINITY) b->lse[i] = NAN;  // such a row is nan
    }
}
// The weights p of a tile over its scores, and over do v^T the slopes p (do v^T - delta): before the softcap bends them, or after.
template <class A> void slope_rows(const Attention *t, const Sequence *s, ptrdiff_t start, Strip<A> *b, bool bend) {
    typedef Lanes<A> P;
    const ptrdiff_t L = lanes<A>(), first = b->chunk.first / L * L, end = whole_width<A>(b->chunk.end);
    for (ptrdiff_t i = 0; i < b->rows; i++) {
        A *p = b->scores + i * PITCH, *ds = b->slopes + i * PITCH, *bends = b->bends + i * PITCH;
        const P lse = splat<A>(b->lse[i]), delta = splat<A>(b->delta[i]);
        adjust<A>(t, s, b, i, start, p, t->softcap ? bends : nullptr);
        auto slope = [&](ptrdiff_t j, P w) TERM {
            const P x = w * (load<A>(ds + j) - delta);
            return t->softcap && bend ? x * (constant<P>(1) - load<A>(bends + j)) : x;
        };
        if (!b->marked) {
            for (ptrdiff_t j = first; j < end; j += L) {
                const P w = weight_of<A>(load<A>(p + j) - lse);
                store<A>(p + j, w);
                store<A>(ds + j, slope(j, w));
            }
            continue;
        }
        for (ptrdiff_t j = b->here[i].first / L * L; j < b->here[i].end; j += L) store<A>(p + j, weight_of<A>(load<A>(p + j) - lse));
        mark(t, b, i, p);
        for (ptrdiff_t j = first; j < end; j += L) {
            const P w = load<A>(p + j);
            store<A>(ds + j, select(as<bits_t<A>>(w) == whole<A>(std::numeric_limits<bits_t<A>>::min()), constant<P>(0), slope(j, w)));
        }
    }
}
template <class A> void slope_tile(const Attention *t, const Sequence *s, ptrdiff_t start, Strip<A> *b, bool bend) {
    score(b, b->scores, b->q, whole_width<A>(t->d), b->turned_k, t->d);
    score(b, b->slopes, b->o, whole_width<A>(t->dv), b->turned_v, t->dv);
    slope_rows(t, s, start, b, bend);
}
INLINE void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}
template <class A> void put_dq(const Attention *t, const Sequence *s, const Strip<A> *b, A *dq) {
    const ptrdiff_t L = lanes<A>(), qw = whole_width<A>(t->d);
    for (ptrdiff_t i = 0; i < b->rows; i++, dq += qw) {
        for (ptrdiff_t j = 0; j < qw; j += L) store<A>(dq + j, load<A>(dq + j) * splat<A>((A)t->scale));
        put_row_of<A>(address_of(t, s, OF_DQ, b->head[i], b->query[i]), t->layout[OF_DQ].column, dq, t->d, t->layout[OF_DQ].code);
    }
}
// The gradients of the keys and values of the chunk at `start`, and what it adds to those of all queries.  dq holds their sums,
// row by row of the key head; chunks add to a strip in their order, which `done` keeps: how many of its chunks a strip has seen.
template <class A> void chunk_gradients(const Attention *t, const Sequence *s, ptrdiff_t head, ptrdiff_t start, Strip<A> *b, A *dq, int *done) {
    const ptrdiff_t qw = whole_width<A>(t->d), vw = whole_width<A>(t->dv), rows = t->group * s->queries, most = strip_rows(dq, true);
    const Range chunk = {0, std::min(CHUNK_KEYS, s->keys - start)};
    const Rows<A> k = rows_of_chunk(t, s, OF_K, head, start, chunk, t->d, b->k);
    turn_chunk(b->turned_k, k, chunk, t->d, k, 0);
    const Rows<A> v = rows_of_chunk(t, s, OF_V, head, start, chunk, t->dv, b->v);
    turn_chunk(b->turned_v, v, chunk, t->dv, v, 0);
    std::fill_n(b->dk, CHUNK_KEYS * qw, (A)0);
    std::fill_n(b->dv, CHUNK_KEYS * vw, (A)0);
    for (ptrdiff_t first = 0; first < rows; first += most, done++) {
        open_strip(t, s, head, first, std::min(most, rows - first), b);
        A *sums = dq + first * qw;
        const int turn = (int)(start / CHUNK_KEYS - b->all.first / CHUNK_KEYS);
        const bool none = !any(b->all), last = none || start / CHUNK_KEYS == (b->all.end - 1) / CHUNK_KEYS;
        if (none ? start > 0 : turn < 0 || start >= b->all.end) continue;
        const bool met = meet(t, b, start);
        if (met) {
            open_gradients(t, s, b);
            slope_tile(t, s, start, b, true);
            spread_rows(b, b->dv, vw, b->scores, b->o);
            spread_rows(b, b->dk, qw, b->slopes, b->q);
        }
        for (int spins = 0; !none && __atomic_load_n(done, __ATOMIC_ACQUIRE) < turn; spins++)
            if (spins < 1000) pause(); else sched_yield();
        if (none || turn == 0) std::fill_n(sums, b->rows * qw, (A)0);
        if (met) gather_rows(b, sums, qw, b->slopes, k, ADD, Rows<A>{nullptr, 0});
        if (last) put_dq(t, s, b, sums);
        __atomic_store_n(done, turn + 1, __ATOMIC_RELEASE);
    }
    for (ptrdiff_t j = 0; j < chunk.end; j++) {
        put_row_of<A>(address_of(t, s, OF_DK, head, start + j), t->layout[OF_DK].column, b->dk + j * qw, t->d, t->layout[OF_DK].code);
        put_row_of<A>(address_of(t, s, OF_DV, head, start + j), t->layout[OF_DV].column, b->dv + j * vw, t->dv, t->layout[OF_DV].code);
    }
}

// The gradient of a sink, -sum of exp(sink - lse) delta over the rows of its query head in one sequence.
template <class A> double sink_gradient(const Attention *t, const Sequence *s, ptrdiff_t head, Strip<A> *b) {
    double sum = 0;
    const ptrdiff_t most = strip_rows(b->q, true);
    for (ptrdiff_t first = 0; first < s->queries; first += most) {
        open_strip(t, s, head / t->group, head % t->group * s->queries + first, std::min(most, s->queries - first), b);
        open_gradients(t, s, b);
        for (ptrdiff_t i = 0; i < b->rows; i++)
            if (any(b->keys[i]) && b->lse[i] != -INFINITY) sum -= std::exp(t->sinks[head] - (double)b->lse[i]) * (double)b->delta[i];
    }
    return sum;
}
// The gradient of a bias is the slopes, summed over whatever shares it: `count` heads of sequences, and for a bias that has but one
// row or one column all queries or keys.  It is made for the queries from `query` and the keys from `start`, a tile of them.
struct Sharer { const Sequence *s; ptrdiff_t head; };
template <class A> void bias_gradient(const Attention *t, const Sharer *who, ptrdiff_t count, ptrdiff_t query, ptrdiff_t start, ptrdiff_t queries, ptrdiff_t keys,
                                      bool one_row, bool one_column, Strip<A> *b, double *room) {
    const ptrdiff_t most = strip_rows(b->q, true), rows = one_row ? 1 : std::min(most, queries - query), columns = one_column ? 1 : std::min(CHUNK_KEYS, keys - start);
    std::fill_n(room, rows * CHUNK_KEYS, 0.0);
    for (ptrdiff_t n = 0; n < count; n++) {
        const Sequence *s = who[n].s;
        for (ptrdiff_t first = query; first < std::min(one_row ? queries : query + most, s->queries); first += most)
            for (ptrdiff_t c = start; c < std::min(one_column ? keys : start + 1, s->keys); c += CHUNK_KEYS) {
                open_strip(t, s, who[n].head / t->group, who[n].head % t->group * s->queries + first, std::min(most, s->queries - first), b);
                if (!meet(t, b, c)) continue;
                open_gradients(t, s, b);
                const ptrdiff_t head = who[n].head / t->group;
                const Rows<A> k = rows_of_chunk(t, s, OF_K, head, c, b->chunk, t->d, b->k), v = rows_of_chunk(t, s, OF_V, head, c, b->chunk, t->dv, b->v);
                turn_chunk(b->turned_k, k, b->chunk, t->d, k, 0);
                turn_chunk(b->turned_v, v, b->chunk, t->dv, v, 0);
                slope_tile(t, s, c, b, false);
                for (ptrdiff_t i = 0; i < b->rows; i++)
                    for (ptrdiff_t j = b->chunk.first; j < b->chunk.end; j++) room[(one_row ? 0 : i) * CHUNK_KEYS + (one_column ? 0 : j)] += (double)b->slopes[i * PITCH + j];
            }
    }
    const Layout &a = t->layout[OF_DBIAS];
    for (ptrdiff_t i = 0; i < rows; i++)
        put_results<double>(address_of(t, who[0].s, OF_DBIAS, who[0].head, query + i) + start * a.column, a.column, room + i * CHUNK_KEYS, columns, a.code);
}

// ---------------------------------------------------------------- merge

// Rows of o and lse of disjoint keys, folded: weights exp(lse - m).  A part whose lse is -inf adds nothing but its NaN: that of
// a NaN among values of no weight.  Sums start at -0, which leaves even a zero its sign.
struct PartRow { const char *o, *lse; };
INLINE void merge_parts_of_row(const PartRow *part, ptrdiff_t parts, ptrdiff_t n, ptrdiff_t column, int code, int lse_code, char *o, ptrdiff_t o_column, int o_code, char *lse, int out_code) {
    double m = -INFINITY, l = 0, room[CHUNK_KEYS], sum[CHUNK_KEYS], value;
    auto logarithm = [&](ptrdiff_t i) { gather<double>(&value, part[i].lse, 0, 1, lse_code); return value; };
    for (ptrdiff_t i = 0; i < parts; i++) m = logarithm(i) > m ? value : m;
    for (ptrdiff_t i = 0; i < parts; i++) l += logarithm(i) == -INFINITY ? 0 : std::exp(value - m);
    for (ptrdiff_t j = 0; j < n; j += CHUNK_KEYS) {
        const ptrdiff_t some = std::min(CHUNK_KEYS, n - j);
        std::fill_n(sum, some, -0.0);
        for (ptrdiff_t i = 0; i < parts; i++) {
            const bool empty = logarithm(i) == -INFINITY;
            const double w = empty ? 0 : std::exp(value - m);
            gather<double>(room, part[i].o + j * column, column, some, code);
            for (ptrdiff_t k = 0; k < some; k++) sum[k] += empty ? (room[k] == room[k] ? -0.0 : room[k]) : w * room[k];
        }
        for (ptrdiff_t k = 0; k < some; k++) sum[k] = l != 0 ? sum[k] / l : sum[k] + 0.0;
        put_results<double>(o + j * o_column, o_column, sum, some, o_code);
    }
    value = l == 0 ? -INFINITY : m + std::log(l);
    put_results<double>(lse, 0, &value, 1, out_code);
}

}  // namespace
}  // namespace softcore
