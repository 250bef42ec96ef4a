// losses.h: cross-entropy and binary cross-entropy, values and gradients.
//
// Cross-entropy is logsumexp with a few more numbers a row.  With p what multiplies each -log_softmax of a row (the one-hot or
// the soft target, smoothed, times the class weight) and P its sum:
//
//   loss      sum p (lse - x) + z lse^2     = P log(mass) + (P m - sum p x) + z lse^2
//   gradient  c ((P + 2 z lse) softmax - p)     c: what comes in, over what a mean divides by
//
// Only labels without smoothing need no sum over p: P and sum p x are one element then.
#pragma once
#include "walk.h"

namespace softcore {
namespace {

// ---------------------------------------------------------------- sums of doubles in any order

// A sum without rounding: 32 bits of it to a part, from the smallest subnormal up.  The order in which rows come, and which
// thread they come to, cannot be seen in it.
struct Exact {
    int64_t part[68];
    int64_t waiting;  // additions since carries were passed on
    double special;   // the sum of infinities and NaNs
};
INLINE void carry(Exact *s) {
    for (int i = 0; i < 67; i++) {
        const int64_t over = s->part[i] >> 32;
        s->part[i] -= over * ((int64_t)1 << 32);
        s->part[i + 1] += over;
    }
    s->waiting = 0;
}
INLINE void empty_exact(Exact *s) { std::memset(s, 0, sizeof *s); }
INLINE void add_to(Exact *s, double x) {
    uint64_t b;
    std::memcpy(&b, &x, sizeof b);
    const int exponent = (b >> 52) & 0x7ff;
    if (exponent == 0x7ff) { s->special += x; return; }
    const uint64_t digits = (b & 0xfffffffffffff) | (exponent ? (uint64_t)1 << 52 : 0);
    const int at = exponent + !exponent, i = at / 32, shift = at % 32;
    const int64_t low = (digits << shift) & 0xffffffff, high = digits >> (32 - shift);
    const int64_t sign = (int64_t)b < 0 ? -1 : 1;
    s->part[i] += sign * low;
    s->part[i + 1] += sign * high;
    if (++s->waiting == 500) carry(s);  // of 53 bits each, in 63
}
INLINE void merge_exact(Exact *s, Exact *other) {
    carry(s);
    carry(other);
    for (int i = 0; i < 68; i++) s->part[i] += other->part[i];
    s->special += other->special;
}
// Rounded once.
INLINE double value_of(Exact *s) {
    if (s->special != 0) return s->special;
    carry(s);
    const bool negative = s->part[67] < 0;
    if (negative) {
        for (int i = 0; i < 68; i++) s->part[i] = -s->part[i];
        carry(s);
    }
    int top = 67;
    while (top > 2 && !s->part[top]) top--;
    unsigned __int128 digits = ((unsigned __int128)s->part[top] << 64) | ((unsigned __int128)s->part[top - 1] << 32) | (unsigned __int128)s->part[top - 2];
    for (int i = 0; i < top - 2; i++) if (s->part[i]) digits |= 1;
    const double value = std::ldexp((double)digits, 32 * (top - 2) - 1075);
    return negative ? -value : value;
}

// ---------------------------------------------------------------- targets

// What the targets of a call come to: where the first bad label is, or -1; how many are kept; the sum of their weights.
struct Targets { ptrdiff_t bad, kept; Exact weight; };
template <class T> void scan_labels(Targets *s, ptrdiff_t at, const char *p, ptrdiff_t stride, ptrdiff_t n, bool swapped, ptrdiff_t classes, int64_t ignored, const char *weight, ptrdiff_t weight_stride, int weight_code) {
    ptrdiff_t kept = 0, right = 0;
    auto label = [=](ptrdiff_t i) TERM { return fetch<T>(p + i * stride, swapped); };
    // A label that int64 cannot hold is in no case ignored.
    auto is_kept = [=](T t) TERM { return (int64_t)t != ignored || (std::is_unsigned<T>::value && (int64_t)t < 0); };
    for (ptrdiff_t i = 0; i < n; i++) {
        const T t = label(i);
        const bool keep = is_kept(t);
        kept += keep;
        right += keep & ((int64_t)t >= 0) & ((int64_t)t < classes);
    }
    for (ptrdiff_t i = 0; right < kept && s->bad < 0; i++) {
        const T t = label(i);
        if (is_kept(t) && !((int64_t)t >= 0 && (int64_t)t < classes)) s->bad = at + i;
    }
    s->kept += kept;
    if (s->bad >= 0 || !weight) return;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T t = label(i);
        double w;
        if (!is_kept(t)) continue;
        gather<double>(&w, weight + (ptrdiff_t)t * weight_stride, 0, 1, weight_code);
        add_to(&s->weight, w);
    }
}
INLINE void scan_targets(Targets *s, ptrdiff_t at, const char *p, ptrdiff_t stride, ptrdiff_t n, int code, ptrdiff_t classes, int64_t ignored, const char *weight, ptrdiff_t weight_stride, int weight_code) {
    const bool swapped = code & SWAPPED;
#define SCAN(T) return scan_labels<T>(s, at, p, stride, n, swapped, classes, ignored, weight, weight_stride, weight_code)
    switch (code & ~SWAPPED) {
    case INT8: SCAN(int8_t);
    case UINT8: SCAN(uint8_t);
    case INT16: SCAN(int16_t);
    case UINT16: SCAN(uint16_t);
    case INT32: SCAN(int32_t);
    case UINT32: SCAN(uint32_t);
    case INT64: SCAN(int64_t);
    case UINT64: SCAN(uint64_t);
    }
#undef SCAN
}
INLINE void put_number(char *p, int code, double a) {
    if (code == DOUBLE) { std::memcpy(p, &a, sizeof a); return; }
    const float f = (float)a;
    std::memcpy(p, &f, sizeof f);
}

// ---------------------------------------------------------------- cross-entropy

// What the rows of a call share.  Operands that a call may lack have the place -1.
struct Loss {
    double keep, spread, z;  // 1 - smoothing, smoothing / classes, z_loss
    double weights;          // the sum of the class weights
    double factor;           // of every gradient: dloss where it is one number, over what a mean divides by
    long long ignored;
    bool soft, sums;         // probabilities, not labels; the losses are summed
    int weight, pos_weight, dloss, value, gradient;
    Exact *totals;           // of each thread
    double total;
};
// A row between its fold and its map, within a Room.
struct LossRow {
    State<double> s;        // as of softmax
    Sum<double> dot, mass;  // sum p x and sum p, but for a label's own
    double amount, taken;   // once finished: of the gradient amount softmax - taken, the latter at the label
    double c;               // what comes in, over what a mean divides by
};
static_assert(sizeof(LossRow) <= 12 * sizeof(double), "a state must fit its Room");


// p of some elements, as doubles.
template <class S> struct Shares {
    const S *target, *weight;
    double keep, spread;
    INLINE Doubles<S> operator()(ptrdiff_t j, ptrdiff_t m) const {
        typedef Doubles<S> D;
        D p = constant<D>(spread);
        if (target) p = mad(doubles<S>(load_some<S>(target + j, m, 0)), constant<D>(keep), p);
        return weight ? p * doubles<S>(load_some<S>(weight + j, m, 0)) : p;
    }
};
// sum p x and sum p over up to a frame.  An x is not looked at where p is 0: it may be -inf.
template <class S> __attribute__((noinline)) void weigh_row(const S *x, const S *target, const S *weight, ptrdiff_t n, const Loss *o, Sum<double> *dot, Sum<double> *mass) {
    typedef Doubles<S> D;
    const D zero = constant<D>(0);
    const Shares<S> shares = {target, weight, o->keep, o->spread};
    const bool all = target != nullptr;  // else sum p is known
    Sum<D> products = {zero, zero}, sum = {zero, zero};
    for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
        D p = shares(j, n - j), v = doubles<S>(load_some<S>(x + j, n - j, 0)), error;
        if (n - j < lanes<S>()) p = p * doubles<S>(select(first<S>(n - j), constant<Lanes<S>>(1), constant<Lanes<S>>(0)));
        v = select(p == zero, zero, v);
        if (sizeof(acc<S>) == 4) {
            products.high = mad(p, v, products.high);
        } else {
            v = two_product(p, v, &error);
            add<S>(&products, v);
            products.low = products.low + select(v - v == zero, error, zero);
        }
        if (all) add<S>(&sum, p);
    }
    const Sum<double> a = across_lanes<S>(products), b = across_lanes<S>(sum);
    add<double>(dot, a.high);
    dot->low += a.low;
    add<double>(mass, b.high);
    mass->low += b.low;
}
INLINE void merge_sums_of_loss(Sum<double> *a, const Sum<double> *b) {
    add<double>(a, b->high);
    a->low += b->low;
}
INLINE double finite_or(double x, double other) { return x - x == 0 ? x : other; }

// The loss of a kept row from its logarithm: of a label with the logit x, with h what multiplies its -log_softmax besides the
// spread; or with h = 0.  P and the sum p x of all else are in the row.
INLINE double loss_of(const LossRow *r, double log, double h, double x, double lse, const Loss *o) {
    const double m = r->s.m;
    double loss = 0;
    if (h != 0) loss = h * (log + (m - x));  // a difference of finite numbers may be infinite
    if (o->spread != 0 || o->soft) {
        double error, product = two_product(r->mass.high, m, &error), rest, difference = two_sum(product, -r->dot.high, &rest);
        rest = finite_or(rest, 0) + finite_or(error, 0) + (r->mass.low * m - r->dot.low);
        loss += (r->mass.high + r->mass.low) * log + (difference + finite_or(rest, 0));
    }
    return loss + (o->z != 0 ? o->z * lse * lse : 0) + (m - m);
}

// What the gradient of a row needs: a softmax + offset, whatever the target; offset is -c p of all elements, if p has a spread.
template <class S> struct GradientRow {
    RowFrame<S> frame;
    RowShare<S> share;         // a / l
    acc<S> keep, spread;       // c keep and c spread
    double taken;              // c p of the label, beyond the spread
};
template <class D> INLINE auto is_far_from_one(D a) {
    const D zero = constant<D>(0), size = select(a < zero, zero - a, a);
    return (size - size == zero) & (size != zero) & ((constant<D>(0x1p-30) >= size) | (size >= constant<D>(0x1p30)));
}
// a / l, rounded to the accumulator's precision, and what is left.
template <class S, class D> INLINE Sum<D> quotient(D a, const Sum<D> &l) {
    D error;
    const D sum = l.high + l.low, one = constant<D>(1) / sum, q = a / sum, product = two_product(q, l.high, &error);
    const D rest = one * (((a - product) - error) - q * l.low), high = rounded<S>(q);
    return {high, (q - high) + rest};
}
// What makes a softmax of an exponential, a = r->amount.
template <class S> INLINE RowShare<S> share_of(const S *, const LossRow *r) {
    double amount = r->amount, unit = 1;
    // Far from 1 the factor's power of two is left for last, so that neither the quotient is subnormal nor what vanishes appears.
    if (is_far_from_one(amount)) {
        int e;
        std::frexp(amount, &e);
        const int most = sizeof(acc<S>) == 4 ? 120 : 1000;
        e = e < -most ? -most : e > most ? most : e;
        unit = std::ldexp(1.0, e);
        amount = amount / unit;
    }
    const Sum<double> q = quotient<S>(amount, r->s.l);
    return {{(acc<S>)(q.high + (r->s.m - r->s.m)), (acc<S>)q.low}, (acc<S>)unit};
}
template <class S> INLINE GradientRow<S> gradient_row_of(const S *x, const LossRow *r, const Loss *o) {
    const Frame<S> f = frame_of<S>(r->s, 1);
    return {row_of<S>(&f, 0), share_of(x, r), (acc<S>)(o->keep * r->c), (acc<S>)(o->spread * r->c), r->taken};
}
template <class S> struct GradientLanes {
    Frame<S> frame;
    Share<S> share;
    Lanes<S> keep, spread;
    INLINE GradientLanes(const GradientRow<S> &g) : frame(spread_frame<S>(g.frame)), share(g.share), keep(splat<S>(g.keep)), spread(splat<S>(g.spread)) {}
};
// What a label adds to its element.
template <class S> INLINE acc<S> less(acc<S> share, double taken) { return (acc<S>)((double)share - taken); }
template <class S, int WAY> __attribute__((noinline)) void loss_gradient_by_way(S *y, const S *x, const S *target, const S *weight, ptrdiff_t n, const GradientRow<S> *row, bool streaming, const S *ahead) {
    const GradientLanes<S> g(*row);
    auto share = [=](ptrdiff_t j, ptrdiff_t m) TERM { prefetch(ahead + j); return g.share(value(term_by_way<S, WAY>(load_some<S>(x + j, m, -INFINITY), g.frame))); };
    if (!target && row->spread == 0) return over_tile<S>(y, n, streaming, share);
    over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM {
        Lanes<S> p = g.spread;
        if (target) p = mad(load_some<S>(target + j, m, 0), g.keep, p);
        if (weight) p = p * load_some<S>(weight + j, m, 0);
        return share(j, m) - p; });
}
template <class S> INLINE void loss_gradient_row(S *y, const S *x, const S *target, const S *weight, ptrdiff_t n, const GradientRow<S> *row, bool streaming, const S *ahead) {
    if (!ahead) ahead = x;
    if (row->frame.origin != 0) loss_gradient_by_way<S, FAR>(y, x, target, weight, n, row, streaming, ahead);
    else loss_gradient_by_way<S, NEAR>(y, x, target, weight, n, row, streaming, ahead);
}
// The gradient of the label's element, from its logit and the weight of its class, if there is one.
template <class S> INLINE S gradient_of_label(const S *x, const S *weight, const GradientRow<S> *row) {
    const double w = weight ? (double)widen<S>(*weight) : 1;
    const GradientLanes<S> g(*row);
    const Lanes<S> v = splat<S>(widen<S>(*x));
    const Lanes<S> e = value(row->frame.origin != 0 ? term_by_way<S, FAR>(v, g.frame) : term_by_way<S, NEAR>(v, g.frame));
    return narrow<S>(less<S>(lane<S>(g.share(e), 0), row->taken + (double)row->spread * w));
}

template <class S> INLINE double number_at_address(const S *, const char *p, int code) { double x; gather<double>(&x, p, 0, 1, code); return x; }

// ---------------------------------------------------------------- short rows as columns

// The numbers of rows that lie side by side in a slab of accumulators A, a row to a lane; see RowShare and GradientRow.
template <class A> struct Turned {
    static constexpr ptrdiff_t MOST = 4 * lanes<A>();
    alignas(64) A high[MOST], low[MOST], unit[MOST], keep[MOST], spread[MOST];
    A own[MOST];         // the gradient at the label,
    double taken[MOST];  // and what it has less than its share, beyond the spread
    double loss[MOST];
    long long label[MOST];                     // -1 where a row does not count
    double x[MOST], weight[MOST], c[MOST];     // of settle_labels: the logit; keep times the class weight and c of LossRow, where rows differ in them
};
template <class A> INLINE void set_turned(Turned<A> *t, ptrdiff_t i, const LossRow *r, const Loss *o) {
    const RowShare<A> share = share_of<A>(nullptr, r);
    t->high[i] = share.inverse.high, t->low[i] = share.inverse.low, t->unit[i] = share.unit;
    t->keep[i] = (A)(o->keep * r->c), t->spread[i] = (A)(o->spread * r->c), t->taken[i] = r->taken;
}
// What settle_labels needs of the labels of `count` rows.  What comes of an ignored row, and of the lanes of no row, is of no use.
template <class A> __attribute__((noinline)) void take_labels(Turned<A> *t, const A *x, const A *weight, ptrdiff_t width, ptrdiff_t count, const Loss *o) {
    const long long ignored = o->ignored;
    const double keep = o->keep, factor = o->factor;
    for (ptrdiff_t i = count; i < width; i++) t->label[i] = ignored, t->c[i] = 0;
    for (ptrdiff_t i = 0; i < width; i++) {
        const long long label = t->label[i];
        const bool kept = label != ignored;
        t->label[i] = kept ? label : -1;
        t->x[i] = x[(kept ? label : 0) * width + i];
    }
    if (weight) for (ptrdiff_t i = 0; i < width; i++) t->weight[i] = keep * weight[t->label[i] < 0 ? 0 : t->label[i]];
    if (o->dloss >= 0) for (ptrdiff_t i = 0; i < width; i++) t->c[i] = factor * t->c[i];
}
// Labels without smoothing: the loss of each row of a Lanes of them, and what makes its gradient; loss_of and share_of for many.
template <class A> __attribute__((noinline)) void settle_labels(Turned<A> *t, ptrdiff_t g, const State<Doubles<A>> *s, const Doubles<A> *log, const Loss *o) {
    typedef Doubles<A> D;
    const D zero = constant<D>(0), m = s->m, lse = m + *log;
    D x, weight = constant<D>(o->keep), c = constant<D>(o->factor);
    load_pack(t->x + g, &x);
    if (o->weight >= 0) load_pack(t->weight + g, &weight);
    const D own = select(weight == zero, zero, weight * (*log + (m - x)));
    store_pack(t->loss + g, own + (o->z != 0 ? constant<D>(o->z) * lse * lse : zero) + (m - m));
    if (o->gradient < 0) return;
    if (o->dloss >= 0) load_pack(t->c + g, &c);
    const D amount = c * (weight + (o->z != 0 ? constant<D>(2 * o->z) * lse : zero)), taken = c * weight;
    store_pack(t->taken + g, taken);
    if (__builtin_expect(any(is_far_from_one(amount)), 0)) {
        const A *_ = nullptr;
        for (ptrdiff_t i = 0; i < lanes<A>(); i++) {
            LossRow r;
            r.s.m = number_at(_, &m, i), r.s.l = {number_at(_, &s->l.high, i), number_at(_, &s->l.low, i)};
            r.amount = number_at(_, &amount, i), r.taken = number_at(_, &taken, i), r.c = number_at(_, &c, i);
            set_turned(t, g + i, &r, o);
        }
        return;
    }
    const Sum<D> q = quotient<A>(amount, s->l);
    store<A>(t->high + g, lanes_of<A>(q.high + (m - m)));
    store<A>(t->low + g, lanes_of<A>(q.low));
    store<A>(t->unit + g, constant<Lanes<A>>(1));
    store<A>(t->spread + g, constant<Lanes<A>>(0));
}
// The losses of a slab to where they are summed.  Each is cut into multiples of 2^-32, 2^-80 and 2^-128, and those of up to 64 losses add
// without rounding.  Where a loss is too large for it, not finite or has bits below, they are added one by one.
template <class A> __attribute__((noinline)) void add_losses(const A *, Exact *s, const double *loss, ptrdiff_t width) {
    typedef Doubles<A> D;
    static_assert(Turned<A>::MOST <= 64, "the sum of each part must have 53 bits");
    const double grids[3] = {0x1.8p20, 0x1.8p-28, 0x1.8p-76};
    const D zero = constant<D>(0), most = constant<D>(0x1p15);
    D part[3] = {zero, zero, zero};
    auto fits = zero == zero;
    for (ptrdiff_t g = 0; g < width; g += lanes<A>()) {
        D x;
        load_pack(loss + g, &x);
        fits = fits & (x >= zero - most) & (most >= x);
        for (int i = 0; i < 3; i++) {
            const D grid = constant<D>(grids[i]), whole = (x + grid) - grid;
            part[i] = part[i] + whole;
            x = x - whole;
        }
        fits = fits & (x == zero);
    }
    if (__builtin_expect(!all(fits), 0)) {
        for (ptrdiff_t i = 0; i < width; i++) add_to(s, loss[i]);
        return;
    }
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        for (ptrdiff_t j = 0; j < lanes<A>(); j++) sum += number_at((const A *)nullptr, &part[i], j);
        if (sum != 0) add_to(s, sum);
    }
}
// The losses of a slab where each has a place of its own.
INLINE void put_losses(char *p, ptrdiff_t step, int code, const double *loss, ptrdiff_t count) {
    if (code == FLOAT && step == sizeof(float)) {
        for (ptrdiff_t i = 0; i < count; i++) {
            const float f = (float)loss[i];
            std::memcpy(p + i * sizeof f, &f, sizeof f);
        }
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++) put_number(p + i * step, code, loss[i]);
}
// weigh_row for a Lanes of columns, adding in the same order.
template <class A> __attribute__((noinline)) void weigh_columns(const A *x, const A *target, const A *weight, ptrdiff_t width, ptrdiff_t n, const Loss *o, Sum<Doubles<A>> *dot, Sum<Doubles<A>> *mass) {
    typedef Doubles<A> D;
    const D zero = constant<D>(0);
    *dot = *mass = {zero, zero};
    for (ptrdiff_t i = 0; i < lanes<A>() && i < n; i++) {
        Sum<D> products = {zero, zero}, sum = {zero, zero};
        for (ptrdiff_t j = i; j < n; j += lanes<A>()) {
            D p = constant<D>(o->spread), v = doubles<A>(load<A>(x + j * width)), error;
            if (target) p = mad(doubles<A>(load<A>(target + j * width)), constant<D>(o->keep), p);
            if (weight) p = p * constant<D>(weight[j]);
            v = select(p == zero, zero, v);
            if (sizeof(A) == 4) {
                products.high = mad(p, v, products.high);
            } else {
                v = two_product(p, v, &error);
                add<A>(&products, v);
                products.low = products.low + select(v - v == zero, error, zero);
            }
            if (target) add<A>(&sum, p);
        }
        add<double>(dot, products.high);
        dot->low = dot->low + products.low;
        add<double>(mass, sum.high);
        mass->low = mass->low + sum.low;
    }
}
// Exponentials become shares of the gradient,
template <class A> __attribute__((noinline)) void share_columns(A *e, ptrdiff_t width, ptrdiff_t n, const Turned<A> *t) {
    for (ptrdiff_t g = 0; g < width; g += lanes<A>()) {
        Share<A> share;
        share.inverse = {load<A>(t->high + g), load<A>(t->low + g)};
        share.unit = load<A>(t->unit + g);
        share.scaled = !all(share.unit == constant<Lanes<A>>(1));
        for (ptrdiff_t j = 0; j < n; j++) store<A>(e + j * width + g, share(load<A>(e + j * width + g)));
    }
}
// less what labels without smoothing take of them.  Ignored rows have none.
template <class A> __attribute__((noinline)) void less_labels(A *e, ptrdiff_t width, ptrdiff_t n, ptrdiff_t count, const Turned<A> *t) {
    for (ptrdiff_t i = 0; i < count; i++, e++) {
        if (t->label[i] >= 0) {
            A *own = e + t->label[i] * width;
            *own = less<A>(*own, t->taken[i] + (double)t->spread[i]);  // which is 0, and makes a 0 of -0
            continue;
        }
        for (ptrdiff_t j = 0; j < n; j++) e[j * width] = 0;
    }
}
// less what targets that are spread take of them.
template <class A> __attribute__((noinline)) void less_columns(A *e, const A *target, const A *weight, ptrdiff_t width, ptrdiff_t n, const Turned<A> *t) {
    for (ptrdiff_t g = 0; g < width; g += lanes<A>()) {
        const Lanes<A> keep = load<A>(t->keep + g), spread = load<A>(t->spread + g);
        for (ptrdiff_t j = 0; j < n; j++) {
            Lanes<A> p = spread;
            if (target) p = mad(load<A>(target + j * width + g), keep, p);
            if (weight) p = p * splat<A>(weight[j]);
            store<A>(e + j * width + g, load<A>(e + j * width + g) - p);
        }
    }
}

// ---------------------------------------------------------------- rows frame by frame

// The row of labels that was walked is written next, unless its exponentials were not all kept.
template <class S> bool turn_to_gradient(Walk<S> *w, S *y, const S *x, const LossRow *r, const Loss *o, ptrdiff_t label) {
    if (!settle(w, r->s)) return false;
    const GradientRow<S> g = gradient_row_of<S>(x, r, o);
    w->y = y;
    w->share = g.share;
    w->label = label;
    w->own = gradient_of_label<S>(x + label, nullptr, &g);
    return true;
}

// ---------------------------------------------------------------- binary cross-entropy

// up softplus(-x) + down softplus(x), of which each is softplus(-|x|) and perhaps |x|; and its derivative
// down sigmoid(x) - up sigmoid(-x).  A factor of 0 annihilates an infinite logit.
template <class S> struct Binary {
    Lanes<S> x, up, down, e;  // e = exp(-|x|) 2^headroom
    INLINE Binary(Lanes<S> logit, Lanes<S> target, const Lanes<S> *weight, const Lanes<S> *pos_weight) : x(logit) {
        up = pos_weight ? target * *pos_weight : target;
        down = constant<Lanes<S>>(1) - target;
        if (weight) up = up * *weight, down = down * *weight;
        e = decay<S, false>(x);
    }
    static INLINE Lanes<S> times_finite(Lanes<S> a, Lanes<S> b) {
        const Lanes<S> zero = constant<Lanes<S>>(0);
        return select((a == zero) & (b == constant<Lanes<S>>(INFINITY)), zero, a * b);
    }
    INLINE Lanes<S> loss() const {
        typedef Lanes<S> P;
        const P zero = constant<P>(0), rest = log1p_unit<S>(e * constant<P>(std::ldexp(1.0, -Exp<acc<S>>::headroom)));
        return times_finite(up, select(x < zero, zero - x, zero) + rest) + times_finite(down, select(x > zero, x, zero) + rest);
    }
    INLINE Lanes<S> gradient() const {
        typedef Lanes<S> P;
        const P unit = constant<P>(std::ldexp(1.0, -Exp<acc<S>>::headroom)), one = constant<P>(1);
        const P large = one / mad(e, unit, one), small = (e * large) * unit;
        const Mask<S> negative = x < constant<P>(0);
        return down * select(negative, small, large) - up * select(negative, large, small);
    }
};
template <class S> INLINE void binary_tile(acc<S> *losses, S *y, const S *x, const S *target, const S *weight, const S *pos_weight, const acc<S> *dloss, ptrdiff_t n, const Loss *o, Sum<double> *total, bool streaming) {
    typedef Lanes<S> P;
    const P factor = splat<S>((acc<S>)o->factor);
    Sum<Doubles<S>> sum = {constant<Doubles<S>>(0), constant<Doubles<S>>(0)};
    auto at = [=](ptrdiff_t j, ptrdiff_t m) TERM {
        P w, p;
        if (weight) w = load_some<S>(weight + j, m, 0);
        if (pos_weight) p = load_some<S>(pos_weight + j, m, 0);
        return Binary<S>(load_some<S>(x + j, m, 0), load_some<S>(target + j, m, 0), weight ? &w : nullptr, pos_weight ? &p : nullptr);
    };
    auto keep = [&](const Binary<S> &b, ptrdiff_t j, ptrdiff_t m) TERM {
        P loss = b.loss();
        if (losses) store_some<acc<S>>(losses + j, loss, m);
        if (total) add<S>(&sum, doubles<S>(m < lanes<S>() ? select(first<S>(m), loss, constant<P>(0)) : loss));
    };
    auto gradient = [=](const Binary<S> &b, ptrdiff_t j, ptrdiff_t m) TERM { return b.gradient() * (dloss ? factor * load_some<acc<S>>(dloss + j, m, 0) : factor); };
    const bool values = losses || total;
    if (!y) {
        for (ptrdiff_t j = 0; j < n; j += lanes<S>()) keep(at(j, n - j), j, n - j);
    } else if (!values) {
        over_tile<S>(y, n, streaming, [=](ptrdiff_t j, ptrdiff_t m) TERM { return gradient(at(j, m), j, m); });
    } else {
        // Lanes of losses start at the same elements wherever y lies: their sum has an order.
        for (ptrdiff_t j = 0; j < n; j += lanes<S>()) {
            const Binary<S> b = at(j, n - j);
            keep(b, j, n - j);
            store_some<S>(y + j, gradient(b, j, n - j), n - j);
        }
    }
    if (!total) return;
    const Sum<double> all = across_lanes<S>(sum);
    add<double>(total, all.high);
    total->low += all.low;
}

}  // namespace
}  // namespace softcore
