// walk.h: rows longer than a frame, walked frame by frame through softmax, log_softmax or the gradient of cross-entropy.
//
// While the exponentials of a frame are summed, the row before is written and the maximum of the frame after is found: three steps that
// wait for different things, in one loop, as in rows.h.  What is written as a multiple of exponentials has them kept, each frame in its
// own unit, until the row is known; those of the next row take their place as they are read.
#pragma once
#include "rows.h"

namespace softcore {
namespace {

template <class S> struct Walk {
    static constexpr ptrdiff_t FRAMES = 256;
    int after;
    acc<S> *kept;
    double k[FRAMES], m[FRAMES];
    bool near_;            // all frames of the row that is being read have the origin 0
    // The row that is being written:
    S *y;                  // or null
    const S *x;            // what a logarithm is taken from
    RowShare<S> share;     // what it needs: for a gradient,
    RowInverse<S> inverse; // softmax
    RowLog<S> log;         // or log_softmax
    acc<S> step[FRAMES];   // what takes a frame's exponentials into the row's unit
    ptrdiff_t n, label;    // of a gradient, or -1
    S own;                 // the gradient at the label
    Writing writing;
    Streamed<S> streamed;
    bool streaming;
};
template <class S> INLINE ptrdiff_t most_kept(const S *) { return Walk<S>::FRAMES * FRAME<S>(); }
template <class S> INLINE void begin_walk(Walk<S> *w, int after, acc<S> *kept, ptrdiff_t n, bool streaming) {
    w->after = after, w->kept = kept, w->y = nullptr, w->n = n, w->label = -1, w->streaming = streaming, w->near_ = true;
}

// Elements of the row that is being written.
template <class S, int AFTER> struct Walked {
    const S *x;
    const acc<S> *kept, *step;
    Share<S> share;
    Inverse<S> inverse;
    LogFrame<S> log;
    INLINE Walked() {}
    INLINE Walked(const Walk<S> *w) : x(w->x), kept(w->kept), step(w->step) {
        if (AFTER == TO_GRADIENT) share = Share<S>(w->share);
        if (AFTER == TO_SOFTMAX) inverse = spread_inverse<S>(w->inverse);
        if (AFTER == TO_LOG_SOFTMAX) log = spread_log<S>(w->log);
    }
    INLINE Lanes<S> within(ptrdiff_t j, ptrdiff_t m, Lanes<S> unit) const {  // a frame
        if (AFTER == TO_LOG_SOFTMAX) return log_softmax_by_way<S, false>(load_some<S>(x + j, m, 0), log);
        const Lanes<S> e = load_some<acc<S>>(kept + j, m, 0) * unit;
        return AFTER == TO_SOFTMAX ? times<S>(e, inverse) : share(e);
    }
    INLINE Lanes<S> operator()(ptrdiff_t j, ptrdiff_t m) const {
        if (AFTER == TO_LOG_SOFTMAX) return within(j, m, constant<Lanes<S>>(1));
        const ptrdiff_t a = j / FRAME<S>(), b = (j + (m < lanes<S>() ? m : lanes<S>()) - 1) / FRAME<S>();
        Lanes<S> unit = splat<S>(step[a]);
        if (a != b) unit = select(first<S>(b * FRAME<S>() - j), unit, splat<S>(step[b]));
        return within(j, m, unit);
    }
};
// The frame of the elements from j0 on: its exponentials, whose sum is put in *s, and the maximum of `next`, if there is one.
template <class S, int WAY, bool KEEP, int AFTER>
__attribute__((noinline)) double walk_frame_by_way(Walk<S> *w, const S *x, ptrdiff_t j0, ptrdiff_t n, State<double> *s, const S *next, ptrdiff_t next_n) {
    const ptrdiff_t L = lanes<S>(), LL = Ahead<S>::SEVERAL, both = next ? std::min(n, next_n) : 0;
    const Frame<S> f = spread_frame<S>(frame_of_row<S>(x, s, 1));
    acc<S> *kept = w->kept + (KEEP ? j0 : 0);
    Tally<S> tally = empty_tally<S>();
    Ahead<S> met;
    Piece<S> piece;
    typedef Walked<S, AFTER> W;
    const bool writes = AFTER != TO_LOGSUMEXP;
    const W result = writes ? W(w) : W();
    if (writes && j0 == 0) w->writing = begin_row<S>(w->y, w->n, w->streaming ? &w->streamed : nullptr, result);
    const Lanes<S> unit = splat<S>(AFTER == TO_LOG_SOFTMAX || !writes ? 1 : w->step[j0 / FRAME<S>()]);
    const bool past = writes && w->writing.past;
    S *y = w->y;
    ptrdiff_t at = writes ? w->writing.j : 0;
    auto write = [&] TERM { put<S>(y + at, result.within(at, L, unit), past); at += L; };
    for (ptrdiff_t from = 0, end, j = 0; from < n; from = end) {
        end = Piece<S>::end(from, n);
        acc<S> *const power = KEEP ? kept : piece.power - from, *const left = piece.left - from;
        auto read = [&](auto v) TERM {
            if constexpr (in_two_steps<S>()) {
                put_reduced<S, WAY>(power + j, left + j, v, f);
            } else {
                v = count<S>(&tally, term_by_way<S, WAY>(v, f));
                if (KEEP) store_pack(kept + j, v);
            }
        };
        const ptrdiff_t meets = std::min(both, end);
        // What is written lies a part of a Lanes ahead of what is read, so it is still there.
        for (; writes && j + LL <= meets && at + LL <= j0 + n; j += LL) {
            const auto v = met.meet(x + j, next + j);
            for (ptrdiff_t i = 0; i < LL; i += L) write();
            read(v);
        }
        for (; writes && j + LL > both && j + L <= end && at + L <= j0 + n; j += L) {
            write();
            read(load<S>(x + j));
        }
        if (writes && end == n) {
            while (at + L <= j0 + n) write();
            if (j0 + n == w->n || (at < j0 + n && at + L > w->n)) {
                end_row<S>(y, w->n, w->streaming ? &w->streamed : nullptr, {at, past}, result);
                at = w->n;
            } else if (at < j0 + n) {
                put<S>(y + at, result(at, L), past);
                at += L;
            }
            w->writing.j = at;
        }
        for (; j + LL <= meets; j += LL) read(met.meet(x + j, next + j));
        for (; j + L <= end; j += L) read(load<S>(x + j));
        if (j < end) read(load_part<S>(x + j, end - j, -INFINITY)), j += L;
        if constexpr (in_two_steps<S>()) add_reduced<S, KEEP>(&tally, power + from, piece.left, j - from, kept + from);
    }
    s->l = s->m - s->m == 0 ? sum_of_row(tally, (n + L - 1) / L) : Sum<double>{0, 0};
    return next ? met.top(next, next_n, 0, both / LL * LL) : 0;
}
template <class S, int AFTER> double walk_and_keep(Walk<S> *w, const S *x, ptrdiff_t j0, ptrdiff_t n, State<double> *s, const S *next, ptrdiff_t next_n) {
    const bool far = s->origin != 0;
    w->k[j0 / FRAME<S>()] = s->k;
    w->m[j0 / FRAME<S>()] = s->m;
    w->near_ = w->near_ && !far;
    if (w->y) return far ? walk_frame_by_way<S, FAR, false, AFTER>(w, x, j0, n, s, next, next_n) : walk_frame_by_way<S, NEAR, true, AFTER>(w, x, j0, n, s, next, next_n);
    return far ? exp_and_top(x, n, s, 1, next, next ? next_n : 0) : walk_frame_by_way<S, NEAR, true, TO_LOGSUMEXP>(w, x, j0, n, s, next, next_n);
}
template <class S> double walk_frame(Walk<S> *w, const S *x, ptrdiff_t j0, ptrdiff_t n, State<double> *s, const S *next, ptrdiff_t next_n) {
    if (w->after == TO_GRADIENT) return walk_and_keep<S, TO_GRADIENT>(w, x, j0, n, s, next, next_n);
    if (w->after == TO_SOFTMAX) return walk_and_keep<S, TO_SOFTMAX>(w, x, j0, n, s, next, next_n);
    if (!w->y) return exp_and_top(x, n, s, 1, next, next ? next_n : 0);
    return s->origin != 0 ? walk_frame_by_way<S, FAR, false, TO_LOG_SOFTMAX>(w, x, j0, n, s, next, next_n) : walk_frame_by_way<S, NEAR, false, TO_LOG_SOFTMAX>(w, x, j0, n, s, next, next_n);
}

// What takes the frames of the row that was read, whose state is s, into one unit; false if they were not all kept.
template <class S> bool settle(Walk<S> *w, const State<double> &s) {
    bool kept = w->near_;
    w->near_ = true;
    for (ptrdiff_t f = 0; kept && f * FRAME<S>() < w->n; f++) {
        const double steps = w->k[f] - s.k;
        if (w->m[f] == -INFINITY) w->step[f] = 0;
        else if (steps < -120) kept = false;
        else w->step[f] = (acc<S>)std::ldexp(1.0, (int)steps);
    }
    return kept;
}
// The row that was read is written next.
template <class S> bool turn_to_softmax(Walk<S> *w, S *y, const State<double> *s) {
    if (!settle(w, *s)) return false;
    w->y = y;
    w->inverse = inverse_of_row<S>(y, s);
    return true;
}
template <class S> void turn_to_log_softmax(Walk<S> *w, S *y, const S *x, double m, double log) {
    w->y = y;
    w->x = x;
    const LogFrame<S> frame = log_of_row<S>(y, m, log, 1);
    w->log = row_of<S>(&frame, 0);
}
// After a walk over the next row, or in its place.
template <class S> INLINE void end_written(Walk<S> *w) {
    if (w->y && w->label >= 0) put_late(&w->streamed, w->y + w->label, w->own);
    w->y = nullptr;
}
template <class S> void write_last(Walk<S> *w) {
    Streamed<S> *streamed = w->streaming ? &w->streamed : nullptr;
    if (w->y && w->after == TO_GRADIENT) write_row<S>(w->y, w->n, streamed, Walked<S, TO_GRADIENT>(w));
    else if (w->y && w->after == TO_SOFTMAX) write_row<S>(w->y, w->n, streamed, Walked<S, TO_SOFTMAX>(w));
    else if (w->y) write_row<S>(w->y, w->n, streamed, Walked<S, TO_LOG_SOFTMAX>(w));
    end_written(w);
    finish_line(&w->streamed);
}

}  // namespace
}  // namespace softcore
