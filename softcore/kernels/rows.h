// rows.h: rows of up to a frame, several to a block, on their way through softmax, log_softmax, logsumexp or cross-entropy.
//
//   top      the largest element of each row
//   sum      the exponentials, kept for softmax and gradients, and their sum
//   write    what is kept times a factor of the row, such as 1 / l, or the elements less the logarithm
//
// Each step of a block waits for the one before it, and each is bound by something else: loads, multipliers, stores.  So
// three blocks are worked on side by side, each a step behind the next, element by element in one loop (0.40 to 0.34 ns an
// element at 512 x 512).  What happens once a row happens between the steps, to all rows of a block in lanes.
#pragma once
#include "elementwise.h"

namespace softcore {
namespace {

enum After { TO_SOFTMAX, TO_LOG_SOFTMAX, TO_LOGSUMEXP, TO_GRADIENT };
INLINE constexpr bool keeps_exponentials(int after) { return after == TO_SOFTMAX || after == TO_GRADIENT; }

// What makes of an exponential some multiple of its softmax: a factor in two parts, and a power of two where the multiple is
// far from 1.
template <class S> struct RowShare { RowInverse<S> inverse; acc<S> unit; };
template <class S> struct Share {
    Inverse<S> inverse;
    Lanes<S> unit;
    bool scaled;
    INLINE Share() {}
    INLINE Share(const RowShare<S> &r) : inverse(spread_inverse<S>(r.inverse)), unit(splat<S>(r.unit)), scaled(r.unit != 1) {}
    INLINE Lanes<S> operator()(Lanes<S> e) const {
#if SOFTCORE_FMA
        e = mad(e, inverse.high, e * inverse.low);
#else
        e = unfused(e, inverse.high, inverse.low);  // not `times`, whose results are at most 1
#endif
        return scaled ? e * unit : e;
    }
};

template <class S> struct Block {
    alignas(64) acc<S> e[FRAME<S>() + 16];
    S scratch[FRAME<S>()];  // for rows that are no plain memory
    S *x[16], *y[16];
    ptrdiff_t row[16], rows;
    bool deep;  // some elements may be lost to their row
    Lanes<S> top;
    State<Doubles<S>> s;
    Frame<S> frame;
    Inverse<S> inverse;
    LogFrame<S> log;
    RowShare<S> share[16];
    ptrdiff_t label[16];
    S own[16];  // the gradient at the label
};
template <class S> INLINE ptrdiff_t whole_lanes(ptrdiff_t n) { return (n + lanes<S>() - 1) / lanes<S>() * lanes<S>(); }
// As many rows as leave three blocks in the first cache, where they are short enough; where the block keeps nothing of its own,
// as the second cache has room for, so that less is left to do once a block (logsumexp of 4096 x 1024: 1.15 times as fast).
template <class S> INLINE ptrdiff_t block_of_rows(const S *, ptrdiff_t n, bool keeps) {
    const ptrdiff_t fit = (!keeps ? 4 * FRAME<S>() : is_half<S>() ? FRAME<S>() / 4 * 3 : FRAME<S>() / 2) / whole_lanes<S>(n);
    return std::max<ptrdiff_t>(1, std::min(fit, lanes<S>()));
}

// Where the exponentials of row i are: if they are kept, those of all rows in turn, else from those of row `from` on.
template <class S, bool KEEP> INLINE acc<S> *place_of(Block<S> *b, ptrdiff_t i, ptrdiff_t from, ptrdiff_t n) { return b->e + (KEEP ? i : i - from) * whole_lanes<S>(n); }
template <class S> INLINE void put_sum(Block<S> *b, ptrdiff_t i, const Sum<double> &sum) {
    set_number<S>(nullptr, &b->s.l.high, i, sum.high);
    set_number<S>(nullptr, &b->s.l.low, i, sum.low);
}

// What is written of row i of a block.
template <class S, int AFTER, bool SCALE> struct Result {
    const S *x;
    const acc<S> *e;
    Inverse<S> inverse;
    LogFrame<S> log;
    Share<S> share;
    INLINE Result(const Block<S> *b, ptrdiff_t i, ptrdiff_t n) : x(b->x[i]), e(b->e + i * whole_lanes<S>(n)) {
        if (AFTER == TO_SOFTMAX) inverse = spread_inverse<S>(row_of<S>(&b->inverse, i));
        if (AFTER == TO_LOG_SOFTMAX) log = spread_log<S>(row_of<S>(&b->log, i));
        if (AFTER == TO_GRADIENT) share = Share<S>(b->share[i]);
    }
    INLINE Lanes<S> operator()(ptrdiff_t j, ptrdiff_t m) const {
        if (AFTER == TO_GRADIENT) return share(in_register(load_some<acc<S>>(e + j, m, 0)));
        if (AFTER == TO_SOFTMAX) return times<S>(in_register(load_some<acc<S>>(e + j, m, 0)), inverse);
        return log_softmax_by_way<S, SCALE>(load_some<S>(x + j, m, 0), log);
    }
};

// The Lanes at j that begin in row i and end in row i + 1, where rows and what was kept of them lie without a gap.
template <class S, bool SCALE> INLINE Lanes<S> across(const Result<S, TO_SOFTMAX, SCALE> &a, const Result<S, TO_SOFTMAX, SCALE> &b, ptrdiff_t j, ptrdiff_t n) {
    const Mask<S> here = first<S>(n - j);
    return times<S>(load<acc<S>>(a.e + j), {select(here, a.inverse.high, b.inverse.high), select(here, a.inverse.low, b.inverse.low)});
}
template <class S, bool SCALE> INLINE Lanes<S> across(const Result<S, TO_GRADIENT, SCALE> &a, const Result<S, TO_GRADIENT, SCALE> &b, ptrdiff_t j, ptrdiff_t n) {
    const Lanes<S> e = load<acc<S>>(a.e + j);
    return select(first<S>(n - j), a.share(e), b.share(e));
}
template <class S, int AFTER, bool SCALE> INLINE Lanes<S> across(const Result<S, AFTER, SCALE> &a, const Result<S, AFTER, SCALE> &, ptrdiff_t j, ptrdiff_t n) { return a(j, n - j); }

// One step of each of three rows, for as many Lanes as all of them have whole, and then for what is left of each.
template <class S, int WAY, int AFTER, bool STREAMS>
__attribute__((noinline)) void side_by_side(Block<S> *next, Block<S> *now, const Block<S> *done, acc<S> *all_left, ptrdiff_t from, ptrdiff_t to, ptrdiff_t n, ptrdiff_t ahead, Streamed<S> *past) {
    Streamed<S> *const streamed = STREAMS ? past : nullptr;  // its own loop saves a branch and registers: 3 to 9% up to 256 elements on AVX2
    typedef Lanes<S> P;
    typedef typename Several<S>::type PP;
    const ptrdiff_t L = lanes<S>(), LL = sizeof(PP) / sizeof(P) * L;
    const bool writes = AFTER != TO_LOGSUMEXP, keeps = keeps_exponentials(AFTER);
    bool begun = false;  // the row before wrote the beginning of this one
    for (ptrdiff_t i = from; i < to; i++) {
        const Frame<S> f = spread_frame<S>(row_of<S>(&now->frame, i));
        const S *a = next->x[i], *b = now->x[i];
        acc<S> *e = place_of<S, keeps>(now, i, from, n), *left = in_two_steps<S>() ? all_left + (i - from) * whole_lanes<S>(n) : nullptr;
        S *y = writes ? done->y[i] : nullptr;
        const Result<S, AFTER, WAY == SCALED> result(writes ? done : now, i, n);
        Writing w = {0, false};
        if (writes) w = begun ? Writing{to_alignment(y), true} : begin_row(y, n, streamed, result);
        Tally<S> tally = empty_tally<S>();
        P m = constant<P>(-INFINITY), sum = constant<P>(0);
        auto meet = [&](P v) TERM { m = greater(v, m); sum = sum + v; };
        auto exponential_of = [&](auto v, ptrdiff_t j) TERM {
            if constexpr (in_two_steps<S>()) {
                put_reduced<S, WAY>(e + j, left + j, v, f);
            } else {
                v = count<S>(&tally, term_by_way<S, WAY>(v, f));
                if (keeps) store_pack(e + j, v);
            }
        };
        ptrdiff_t j = 0;
        auto read = [&] TERM {
            PP v;
            for (ptrdiff_t i = 0; i < LL; i += L) {
                if (i * sizeof(S) % 64 == 0) prefetch(a + ahead + j + i);
                meet(load<S>(a + j + i));
                part<S>(&v, i) = load<S>(b + j + i);
            }
            exponential_of(v, j);
            j += LL;
        };
        // Large arrays of NumPy start at the same place of a page, and so do rows of theirs: writing stays some Lanes behind, where
        // no load seems to want, by the last twelve bits of its address, what is just being stored.
        const ptrdiff_t start = n < 32 * L ? std::min(n, LL) : 4 * L;
        while (j + LL <= start) read();
        while (j + LL <= n) {
            read();
            for (ptrdiff_t i = 0; writes && i < LL; i += L, w.j += L) put<S>(y + w.j, result(w.j, L), w.past);
        }
        begun = keeps && w.past && n % L == 0 && i + 1 < to && done->y[i + 1] == y + n;
        if (begun) {
            for (; w.j + L <= n; w.j += L) stream<S>(y + w.j, result(w.j, L));
            if (w.j < n) stream<S>(y + w.j, across(result, Result<S, AFTER, WAY == SCALED>(done, i + 1, n), w.j, n));
        } else if (writes) {
            end_row(y, n, streamed, w, result);
        }
        for (; j + L <= n; j += L) meet(load<S>(a + j)), exponential_of(load<S>(b + j), j);
        if (j < n) meet(load_part<S>(a + j, n - j, -INFINITY)), exponential_of(load_part<S>(b + j, n - j, -INFINITY), j);
        if (!in_two_steps<S>()) put_sum(now, i, sum_of_row(tally, whole_lanes<S>(n) / L));
        acc<S> top = largest<S>(m);
        if (__builtin_expect(any(sum != sum), 0)) top = (acc<S>)top_of_tile<S>(a, n);
        std::memcpy((char *)&next->top + i * sizeof top, &top, sizeof top);
        // On an average 8 below the top; a part of a vector is filled up with -inf.
        next->deep |= n % L != 0 || any(sum < splat<S>((acc<S>)(n / L) * (top - 8)));
    }
}
// The second step of the exponentials of some rows, of which side_by_side took the first.
template <class S, bool KEEP> __attribute__((noinline)) void add_up(Block<S> *b, const acc<S> *left, ptrdiff_t from, ptrdiff_t to, ptrdiff_t n) {
    const ptrdiff_t whole = whole_lanes<S>(n);
    for (ptrdiff_t i = from; i < to; i++) {
        Tally<S> tally = empty_tally<S>();
        acc<S> *e = place_of<S, KEEP>(b, i, from, n);
        add_reduced<S, KEEP>(&tally, e, left + (i - from) * whole, whole, e);
        put_sum(b, i, sum_of_row(tally, whole / lanes<S>()));
    }
}
template <class S, int WAY, int AFTER>
void advance_by_way(Block<S> *next, Block<S> *now, const Block<S> *done, ptrdiff_t n, ptrdiff_t ahead, Streamed<S> *streamed) {
    alignas(64) acc<S> left[in_two_steps<S>() ? FRAME<S>() + 16 : 1];  // of exponentials that wait for their second step
    ptrdiff_t rows = 0;
    if (next) next->deep = false;
    if (next && now && (done || AFTER == TO_LOGSUMEXP)) {
        rows = std::min(next->rows, now->rows);
        if (AFTER != TO_LOGSUMEXP) rows = std::min(rows, done->rows);
        // In two steps, as many rows at a time as leave what waits in the first cache.
        const ptrdiff_t several = in_two_steps<S>() ? std::max<ptrdiff_t>(1, Piece<S>::LENGTH / whole_lanes<S>(n)) : rows;
        for (ptrdiff_t from = 0, to; from < rows; from = to) {
            to = std::min(rows, from + several);
            if (streamed) side_by_side<S, WAY, AFTER, true>(next, now, done, left, from, to, n, ahead, streamed);
            else side_by_side<S, WAY, AFTER, false>(next, now, done, left, from, to, n, ahead, streamed);
            if constexpr (in_two_steps<S>()) add_up<S, keeps_exponentials(AFTER)>(now, left, from, to, n);
        }
    }
    for (ptrdiff_t i = rows; next && i < next->rows; i++) {
        const acc<S> top = (acc<S>)top_of_tile<S>(next->x[i], n);
        std::memcpy((char *)&next->top + i * sizeof top, &top, sizeof top);
        next->deep = true;
    }
    for (ptrdiff_t i = rows; now && i < now->rows; i++)
        put_sum(now, i, exp_row_by_way<S, WAY, keeps_exponentials(AFTER)>(now->x[i], n, spread_frame<S>(row_of<S>(&now->frame, i)), place_of<S, keeps_exponentials(AFTER)>(now, i, i, n), left));
    for (ptrdiff_t i = rows; AFTER != TO_LOGSUMEXP && done && i < done->rows; i++)
        write_row<S>(done->y[i], n, streamed, Result<S, AFTER, WAY == SCALED>(done, i, n));
}
template <class S, int AFTER> void advance_after(Block<S> *next, Block<S> *now, const Block<S> *done, ptrdiff_t n, double scale, ptrdiff_t ahead, Streamed<S> *streamed) {
    switch (now ? way_of<S>(now->frame, scale) : scale != 1 ? SCALED : NEAR) {
    case SCALED: return advance_by_way<S, SCALED, AFTER>(next, now, done, n, ahead, streamed);
    case FAR: return advance_by_way<S, FAR, AFTER>(next, now, done, n, ahead, streamed);
    default:  // a gradient may be a large multiple of a share
        if (AFTER != TO_GRADIENT && now && !now->deep) return advance_by_way<S, SHALLOW, AFTER == TO_GRADIENT ? TO_SOFTMAX : AFTER>(next, now, done, n, ahead, streamed);
        return advance_by_way<S, NEAR, AFTER>(next, now, done, n, ahead, streamed);
    }
}
// A step for each of the blocks that are there.
template <class S> void advance(int after, Block<S> *next, Block<S> *now, const Block<S> *done, ptrdiff_t n, double scale, ptrdiff_t ahead, Streamed<S> *streamed) {
    if (after == TO_SOFTMAX) advance_after<S, TO_SOFTMAX>(next, now, done, n, scale, ahead, streamed);
    else if (after == TO_LOG_SOFTMAX) advance_after<S, TO_LOG_SOFTMAX>(next, now, done, n, scale, ahead, streamed);
    else if (after == TO_GRADIENT) advance_after<S, TO_GRADIENT>(next, now, done, n, scale, ahead, streamed);
    else advance_after<S, TO_LOGSUMEXP>(next, now, done, n, scale, ahead, streamed);
}

// What happens between the steps.
template <class S> INLINE void frame_block(Block<S> *b, double scale) {
    b->top = select(first<S>(b->rows), b->top, constant<Lanes<S>>(0));  // a lane without a row must not ask for the way of a far one
    b->s = states_of_max<S>(nullptr, b->top, scale);
    b->s.l.high = constant<Doubles<S>>(INFINITY);  // nor look as if it had a spike
    b->frame = frame_of<S>(b->s, scale);
}

// The gradient at the label of row i, which has `taken` less than its share.
template <class S> INLINE S gradient_at_label(const Block<S> *b, ptrdiff_t i, ptrdiff_t n, double taken) {
    const Lanes<S> share = Share<S>(b->share[i])(splat<S>(b->e[i * whole_lanes<S>(n) + b->label[i]]));
    return narrow<S>((acc<S>)((double)lane<S>(share, 0) - taken));
}
template <class S> INLINE void put_own(const Block<S> *b, Streamed<S> *s) {
    for (ptrdiff_t i = 0; i < b->rows; i++) put_late(s, b->y[i] + b->label[i], b->own[i]);
}

}  // namespace
}  // namespace softcore
