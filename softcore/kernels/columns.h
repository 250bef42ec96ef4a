// columns.h: slabs of columns of up to a frame on their way through softmax, log_softmax or logsumexp, the steps of rows.h.
//
// As there, the steps of three slabs go side by side.  What lies in strided rows is read once and kept as accumulators: a few rows of
// the slab that is done are written, a few rows of the one before it become exponentials, and a few rows of the next take the place of
// what was written.  So two slabs are kept, or one where nothing is written.
#pragma once
#include "rows.h"

namespace softcore {
namespace {

static constexpr ptrdiff_t GROUPS = 4;    // the most Lanes that a slab is wide
static constexpr ptrdiff_t AT_ONCE = 64;  // the most rows of them that are taken at once

template <class S> struct Stripe {
    typedef copy_of<S> C;
    S *x, *y, *following;                // x of the slab after it
    ptrdiff_t stride[2], width, groups;  // of x and y in bytes
    C *kept;
    Lanes<S> top[GROUPS], sum[GROUPS];
    State<Doubles<S>> s[GROUPS];
    Frame<S> frame[GROUPS];
    Tally<C> tally[GROUPS];
    Columns<C> columns[GROUPS];
    Inverse<S> inverse[GROUPS];
    LogFrame<S> log[GROUPS];
};

template <class S> INLINE void keep_at(Stripe<S> *b, char *room) { b->kept = (copy_of<S> *)room; }

// Lanes g of `rows` rows from row j on: of the next slab, kept and met; of this one, made exponentials; of the one that is done, written.
template <class S> INLINE void meet_rows(Stripe<S> *b, ptrdiff_t g, ptrdiff_t j, ptrdiff_t rows, ptrdiff_t step) {
    const ptrdiff_t L = lanes<S>(), width = b->width - g * L, stride = b->stride[0];
    const S *x = row_at<S>(b->x, stride, j) + g * L;
    acc<S> *kept = (acc<S> *)b->kept + (j * step + g) * L;
    Lanes<S> m = b->top[g], sum = b->sum[g];
    auto meet = [&](Lanes<S> v) TERM {
        store_pack(kept, v);
        sum = sum + v;
        m = greater(v, m);
        x = row_at(x, stride, 1), kept += step * L;
    };
    if (width >= L) while (rows--) meet(in_register(load<S>(x)));
    else while (rows--) meet(load_part<S>(x, width, 0));
    b->top[g] = m, b->sum[g] = sum;
}
template <class S, int WAY, bool KEEP> INLINE void add_rows(Stripe<S> *b, ptrdiff_t g, ptrdiff_t j, ptrdiff_t rows, ptrdiff_t step) {
    typedef copy_of<S> C;
    const ptrdiff_t L = lanes<S>();
    const Frame<S> &o = b->frame[g];
    const Frame<C> f = {o.low, o.magic, o.origin, o.scale, o.scale_low};
    Tally<C> t = b->tally[g];
    C *kept = b->kept + (j * step + g) * L;
    rows_of_columns(kept, step * L * (ptrdiff_t)sizeof(C), rows, L, [&](ptrdiff_t i, auto v) TERM {
        v = count<C>(&t, term_by_way<C, WAY>(v, f));
        for (ptrdiff_t k = 0; KEEP && k < (ptrdiff_t)(sizeof v / sizeof(Lanes<C>)); k++) store<C>(kept + (i + k) * step * L, part<C>(&v, k));
    });
    b->tally[g] = t;
}
template <class S, int AFTER, bool SCALE> INLINE void write_rows(const Stripe<S> *b, ptrdiff_t g, ptrdiff_t j, ptrdiff_t rows, ptrdiff_t step, bool past) {
    const ptrdiff_t L = lanes<S>(), width = b->width - g * L, stride = b->stride[1];
    const acc<S> *kept = (const acc<S> *)b->kept + (j * step + g) * L;
    S *y = (S *)((char *)b->y + j * stride) + g * L;
    const Inverse<S> inverse = b->inverse[g];
    const LogFrame<S> log = b->log[g];
    auto over = [&](auto write) TERM {
        for (; rows--; kept += step * L, y = (S *)((char *)y + stride)) {
            const Lanes<S> v = in_register(load<acc<S>>(kept));
            write(AFTER == TO_SOFTMAX ? times<S>(v, inverse) : log_softmax_by_way<S, SCALE>(v, log));
        }
    };
    if (width < L) over([&](Lanes<S> v) TERM { store_part<S>(y, v, width); });
    else if (past) over([&](Lanes<S> v) TERM { stream<S>(y, v); });
    else over([&](Lanes<S> v) TERM { store<S>(y, v); });
}
// The three at once, two rows after two, where all have whole Lanes.  Rows from `soon` on, unless it is null, are asked for one by one: in
// two steps nothing is read in the second, and all at once would be too many lines for a processor to wait for.
template <class S, int WAY, int AFTER, class W>
INLINE void side_by_side(Stripe<S> *next, Stripe<S> *now, const Stripe<S> *done, ptrdiff_t g, ptrdiff_t j, ptrdiff_t rows, ptrdiff_t step, const S *soon, W write) {
    typedef copy_of<S> C;
    typedef typename Several<C>::type PP;
    const ptrdiff_t L = lanes<S>(), several = sizeof(PP) / sizeof(Lanes<C>), apart = step * L;
    const bool writes = AFTER != TO_LOGSUMEXP;
    const Frame<S> &o = now->frame[g];
    const Frame<C> f = {o.low, o.magic, o.origin, o.scale, o.scale_low};
    const Inverse<S> inverse = writes ? done->inverse[g] : Inverse<S>();
    const LogFrame<S> log = writes ? done->log[g] : LogFrame<S>();
    const S *x = row_at<S>(next->x, next->stride[0], j) + g * L;
    S *y = writes ? (S *)((char *)done->y + j * done->stride[1]) + g * L : nullptr;
    const ptrdiff_t at = (j * step + g) * L;
    acc<S> *in = (acc<S> *)next->kept + at, *e = (acc<S> *)now->kept + at;
    const acc<S> *out = writes ? (const acc<S> *)done->kept + at : e;
    const ptrdiff_t x_stride = next->stride[0], y_stride = writes ? done->stride[1] : 0;
    Tally<C> t = now->tally[g];
    Lanes<S> m = next->top[g], sum = next->sum[g];
    alignas(64) acc<C> power[in_two_steps<C>() ? AT_ONCE * lanes<C>() : 1], left[in_two_steps<C>() ? AT_ONCE * lanes<C>() : 1];
    acc<C> *const kept = e;
    for (ptrdiff_t i = 0; i < rows; i += several) {
        PP v;
        for (ptrdiff_t k = 0; k < several; k++) part<C>(&v, k) = load<C>((C *)e + k * apart);
        for (ptrdiff_t k = 0; k < several; k++) {
            if (writes) {
                const Lanes<S> d = in_register(load<acc<S>>(out + k * apart));
                write(y, AFTER == TO_SOFTMAX ? times<S>(d, inverse) : log_softmax_by_way<S, WAY == SCALED>(d, log));
                y = (S *)((char *)y + y_stride);
            }
            const Lanes<S> w = in_register(load<S>(x));
            if (soon) prefetch(soon), soon = row_at(soon, x_stride, 1);
            m = greater(w, m), sum = sum + w;
            store_pack(in + k * apart, w);  // of what was here v has been read
            x = row_at(x, x_stride, 1);
        }
        if constexpr (in_two_steps<C>()) {
            put_reduced<C, WAY>(power + i * L, left + i * L, v, f);
        } else {
            v = count<C>(&t, term_by_way<C, WAY>(v, f));
            if (AFTER == TO_SOFTMAX) for (ptrdiff_t k = 0; k < several; k++) store<C>((C *)e + k * apart, part<C>(&v, k));
        }
        in += several * apart, e += several * apart, out += several * apart;
    }
    if constexpr (in_two_steps<C>()) add_reduced<C, AFTER == TO_SOFTMAX>(&t, power, left, rows * L, kept, apart);
    now->tally[g] = t;
    next->top[g] = m, next->sum[g] = sum;
}
template <class S, int WAY, int AFTER>
__attribute__((noinline)) void advance_columns_by_way(Stripe<S> *next, Stripe<S> *now, const Stripe<S> *done, ptrdiff_t n, ptrdiff_t step, bool streaming) {
    const ptrdiff_t L = lanes<S>(), several = sizeof(typename Several<copy_of<S>>::type) / sizeof(Lanes<S>), at_once = n < AT_ONCE ? n : 8;
    const bool all = next && now && (done || AFTER == TO_LOGSUMEXP);
    const bool past = done && streaming && to_alignment(done->y) == 0 && done->stride[1] % 64 == 0, far = next && next->stride[0] >= 1024;
    const bool one_by_one = far && all && in_two_steps<copy_of<S>>();
    const ptrdiff_t coming = next ? next->groups : 0, going = now ? now->groups : 0, leaving = done ? done->groups : 0;
    const ptrdiff_t groups = std::max(coming, std::max(going, leaving));
    for (ptrdiff_t g = 0; g < coming; g++) next->top[g] = constant<Lanes<S>>(-INFINITY), next->sum[g] = constant<Lanes<S>>(0);
    for (ptrdiff_t g = 0; g < going; g++) now->columns[g] = Columns<copy_of<S>>();
    for (ptrdiff_t start = 0; start < n; start += COUNT) {
        const ptrdiff_t end = std::min(n, start + COUNT);
        for (ptrdiff_t g = 0; g < going; g++) now->tally[g] = empty_tally<copy_of<S>>();
        for (ptrdiff_t j = start; j < end; j += at_once) {
            const ptrdiff_t rows = std::min(at_once, end - j);
            // The next rows lie in other pages, where no hardware looks ahead.
            auto row_to_come = [&](ptrdiff_t r) { return r < n ? row_at<S>(next->x, next->stride[0], r) : row_at<S>(next->following, next->stride[0], r - n); };
            for (ptrdiff_t i = 0; far && !one_by_one && i < rows; i++)
                for (ptrdiff_t g = 0; g < coming; g++) prefetch(row_to_come(j + i + 32) + g * L);
            for (ptrdiff_t g = 0; g < groups; g++) {
                const ptrdiff_t width = (g + 1) * L;
                ptrdiff_t i = 0;
                if (all && width <= next->width && width <= now->width && (AFTER == TO_LOGSUMEXP || width <= done->width)) {
                    i = rows / several * several;
                    const S *soon = one_by_one ? row_to_come(j + 32) + g * L : nullptr;
                    if (past) side_by_side<S, WAY, AFTER>(next, now, done, g, j, i, step, soon, [](S *y, Lanes<S> v) TERM { stream<S>(y, v); });
                    else side_by_side<S, WAY, AFTER>(next, now, done, g, j, i, step, soon, [](S *y, Lanes<S> v) TERM { store<S>(y, v); });
                    if (i == rows) continue;
                }
                if (AFTER != TO_LOGSUMEXP && g < leaving) write_rows<S, AFTER, WAY == SCALED>(done, g, j + i, rows - i, step, past);
                if (g < going) add_rows<S, WAY, AFTER == TO_SOFTMAX>(now, g, j + i, rows - i, step);
                if (g < coming) meet_rows(next, g, j + i, rows - i, step);
            }
        }
        for (ptrdiff_t g = 0; g < going; g++) now->columns[g].take(now->tally[g], end - start);
    }
    for (ptrdiff_t g = 0; g < going; g++) {
        now->s[g].l = now->columns[g].sums();
        close_columns<S>(nullptr, &now->s[g]);
    }
    for (ptrdiff_t g = 0; g < coming; g++) {
        if (__builtin_expect(!any(next->sum[g] != next->sum[g]), 1)) continue;  // else there is NaN, or there are both infinities
        for (ptrdiff_t j = 0; j < n; j++) {
            const Lanes<S> v = load<acc<S>>((const acc<S> *)next->kept + (j * step + g) * L);
            next->top[g] = select(v != v, constant<Lanes<S>>(NAN), next->top[g]);
        }
    }
}
template <class S, int AFTER> void advance_columns_after(Stripe<S> *next, Stripe<S> *now, const Stripe<S> *done, ptrdiff_t n, ptrdiff_t step, double scale, bool streaming) {
    switch (now ? way_of_columns<S>(now->frame, now->groups, scale) : scale != 1 ? SCALED : NEAR) {
    case SCALED: return advance_columns_by_way<S, SCALED, AFTER>(next, now, done, n, step, streaming);
    case FAR: return advance_columns_by_way<S, FAR, AFTER>(next, now, done, n, step, streaming);
    default: return advance_columns_by_way<S, NEAR, AFTER>(next, now, done, n, step, streaming);
    }
}
// A step for each of the slabs that are there; `step` Lanes lie between kept rows.
template <class S> void advance_columns(int after, Stripe<S> *next, Stripe<S> *now, const Stripe<S> *done, ptrdiff_t n, ptrdiff_t step, double scale, bool streaming) {
    if (after == TO_SOFTMAX) advance_columns_after<S, TO_SOFTMAX>(next, now, done, n, step, scale, streaming);
    else if (after == TO_LOG_SOFTMAX) advance_columns_after<S, TO_LOG_SOFTMAX>(next, now, done, n, step, scale, streaming);
    else advance_columns_after<S, TO_LOGSUMEXP>(next, now, done, n, step, scale, streaming);
    if (next)
        for (ptrdiff_t g = 0; g < next->groups; g++) {
            next->s[g] = states_of_max<S>(nullptr, next->top[g], scale);
            next->frame[g] = frames_of<S>(nullptr, &next->s[g], scale);
        }
}

}  // namespace
}  // namespace softcore
