# Pooling: windows over the last three of five axes.  The first two are planes apart, perhaps channels that are neighbours in memory.
#
# A unit of work is a row of outputs (or a block of it), in row-major order; threads take stretches of units.  Each row of the input is
# reduced along its own axis first and kept while other windows need it, then rows join in order: the same additions in every walk.

cdef enum:
    POOL_OPERANDS = 5
    KEPT_ROWS = 64       # reduced rows that a thread keeps
    KEPT_STATS = 256     # of soft windows, whose gradients need them more than once
    COLUMNS = 2048       # of a row of gradients that are worked on together
    MARGIN = 64          # zeros before and after the sums of a row
    BAND = 16384         # elements of a plane that gradients are gathered in
    SIDE_BY_SIDE = 16    # channels of such a band
    ITEMS = 256          # gradients that are looked at together

ctypedef fused pooled:   # what maxima are taken in
    half
    bfloat16
    float
    double
    int
    long long

ctypedef fused moved:    # what is only moved
    unsigned char
    unsigned short
    unsigned int
    unsigned long long

ctypedef fused number:   # what is looked at before it is moved or added
    double
    long long
    unsigned char
    unsigned short
    unsigned int
    unsigned long long

cdef struct Planes:      # an operand, and the bytes from one element to the next
    char* data
    int code
    Py_ssize_t step[5]
    Py_ssize_t shape[5]
    Py_ssize_t itemsize

cdef struct Pool:
    int op
    bint index           # places are wanted
    bint padding         # a mean counts padding
    bint streaming
    bint across          # lanes run across channels
    int channel          # which of the first two axes those are
    Py_ssize_t planes
    Windows w[3]
    Planes arg[POOL_OPERANDS]

cdef inline char* plane_of(const Planes* a, Py_ssize_t plane) noexcept nogil:
    return a.data + plane // a.shape[1] * a.step[0] + plane % a.shape[1] * a.step[1]

cdef inline char* row_of(const Planes* a, char* plane, Py_ssize_t d, Py_ssize_t h) noexcept nogil:
    return plane + d * a.step[2] + h * a.step[3]

# ------------------------------------------------------------------------------------------------ rows, packed

# A thread's memory: what is packed, and rows that windows share.
cdef struct Bench:
    char* packed
    char* rows
    char* total
    char* mass
    char* moment
    double* count
    double* other
    Py_ssize_t* tags
    bint* nan

cdef enum:
    BENCH_PACKED = TAPS * (OUTPUTS + 96) * 8
    BENCH_BYTES = BENCH_PACKED + (KEPT_ROWS + 3) * PARTIAL_BYTES + PARTIAL_BYTES + KEPT_ROWS * 16 + 256

cdef void open_bench(Bench* b, char* room) noexcept nogil:
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    b.packed = room
    b.rows = b.packed + BENCH_PACKED
    b.total = b.rows + KEPT_ROWS * PARTIAL_BYTES
    b.mass = b.total + PARTIAL_BYTES
    b.moment = b.mass + PARTIAL_BYTES
    b.count = <double*> (b.moment + PARTIAL_BYTES)
    b.other = b.count + PARTIAL_BYTES // 16
    b.tags = <Py_ssize_t*> (b.count + PARTIAL_BYTES // 8)
    b.nan = <bint*> (b.tags + KEPT_ROWS)

# The reduction of one row of the input along itself.
cdef void reduce_row(const Pool* t, Partial[pooled]* r, Packed[pooled]* p, const char* row, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef const Windows* w = &t.w[2]
    cdef Py_ssize_t tap = 0
    cdef pooled* _ = NULL
    while tap < w.window:
        if w.window > TAPS or p.slots == 0:
            plan_taps(_, p, w, first, n, tap)
        pack_row(_, p, w, row, t.arg[0].step[4], t.arg[0].code, t.op != POOL_MEAN)
        if t.op == POOL_MEAN:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                if tap == 0:
                    begin_sum(_, r, n)
                add_sum(_, r, p)
        else:
            if tap == 0:
                begin_max(_, r, w, p, t.index)
            add_max(_, r, w, p, t.index)
        tap += TAPS

# Maxima or sums of the windows of a block of outputs.
cdef Partial[pooled] reduce_windows(const Pool* t, Bench* b, Packed[pooled]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, Py_ssize_t kept) noexcept nogil:
    cdef Partial[pooled] total, row
    cdef pooled* _ = NULL
    cdef Py_ssize_t kd, kh, d, h, slot, offset
    cdef bint begun = False
    total = partial_at(_, b.total)
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        d = start_of(&t.w[0], od) + kd * t.w[0].dilation
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            h = start_of(&t.w[1], oh) + kh * t.w[1].dilation
            slot = kd * kept + h % kept if kept else 0
            row = partial_at(_, b.rows + slot * PARTIAL_BYTES)
            if kept and b.tags[slot] == h:
                row.nan = b.nan[slot]
            else:
                reduce_row(t, &row, p, row_of(&t.arg[0], plane, d, h), first, n)
                b.tags[slot] = h
                b.nan[slot] = row.nan
            offset = (kd * t.w[0].dilation * t.w[1].size + kh * t.w[1].dilation) * t.w[2].size
            if t.op == POOL_MEAN:
                if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                    if not begun:
                        begin_sum(_, &total, n)
                    join_sum(_, &total, &row, n)
            else:
                join_max(_, &total, &row, n, offset, not begun, t.index)
            begun = True
    return total

# How many rows of one depth are kept, for windows that overlap from row to row; 0 if none.
cdef Py_ssize_t kept_rows(const Pool* t) noexcept nogil:
    cdef Py_ssize_t reach = (t.w[1].window - 1) * t.w[1].dilation + 1
    return reach if reach > t.w[1].stride and t.w[0].window * reach <= KEPT_ROWS and t.w[1].window > 1 else 0

cdef void pool_rows(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, pooled* _) noexcept nogil:
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef Py_ssize_t blocks = (t.w[2].count + OUTPUTS - 1) // OUTPUTS, kept = kept_rows(t), before = -1, counted = -1
    cdef Py_ssize_t plane, block, od, oh, first, n, i, rows
    cdef Packed[pooled] p
    cdef Partial[pooled] r
    cdef Bench b
    cdef char* source
    cdef char* target
    open_bench(&b, room)
    p.room = <acc[pooled]*> b.packed
    while unit < last:
        oh = unit % t.w[1].count
        od = unit // t.w[1].count % t.w[0].count
        block = unit // t.w[1].count // t.w[0].count % blocks
        plane = unit // t.w[1].count // t.w[0].count // blocks
        first = block * OUTPUTS
        n = min(OUTPUTS, t.w[2].count - first)
        source = plane_of(x, plane)
        if before != unit // t.w[1].count:  # other rows from here on
            before = unit // t.w[1].count
            for i in range(KEPT_ROWS):
                b.tags[i] = -1
            p.slots = 0
        r = reduce_windows(t, &b, &p, source, od, oh, first, n, kept)
        target = row_of(y, plane_of(y, plane), od, oh) + first * y.step[4]
        if t.op == POOL_MEAN:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                rows = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                if counted != rows * blocks + block:
                    counted = rows * blocks + block
                    fill_counts(t, b.count, rows, first, n, pooled is not double)
                if put_means(_, target, y.step[4], &r, b.count, n):
                    means_again(t, source, target, od, oh, first, n)
        elif t.op == POOL_SOFT:
            if pooled is half or pooled is bfloat16 or pooled is float or pooled is double:
                soft_windows(t, &b, &p, source, od, oh, first, n, b.count, b.other, _)
                put_doubles(_, target, y.step[4], b.count, n)
                if pooled is double:
                    soft_again(t, source, target, od, oh, first, n)
        else:
            put_row(_, target, y.step[4], r.m, n, y.code)
            if t.index:
                put_places(_, row_of(&t.arg[2], plane_of(&t.arg[2], plane), od, oh) + first * t.arg[2].step[4], t.arg[2].step[4], &r, n,
                           (start_of(&t.w[0], od) * t.w[1].size + start_of(&t.w[1], oh)) * t.w[2].size + start_of(&t.w[2], first), t.w[2].stride)
        unit += 1

cdef void fill_counts(const Pool* t, double* count, Py_ssize_t rows, Py_ssize_t first, Py_ssize_t n, bint inverse) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n + 15):
        count[j] = 1
    for j in range(n):
        count[j] = rows * counted_taps(&t.w[2], first + j, t.padding)
        if inverse:
            count[j] = 1 / count[j]

# Sums of doubles that came out infinite or NaN, in long double: their mean may be finite.
cdef void means_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        mean_again(t, plane, y + j * t.arg[1].step[4], od, oh, first + j)

cdef void mean_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t ow) noexcept nogil:
    cdef double v
    cdef long double sum = 0
    cdef Py_ssize_t kd, kh, kw
    gather(&v, y, 0, 1, DOUBLE)
    if isfinite(v):
        return
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            for kw in range(first_tap(&t.w[2], ow), end_tap(&t.w[2], ow)):
                gather(&v, tap_of(t, plane, od, oh, ow, kd, kh, kw), 0, 1, t.arg[0].code)
                sum += v
    sum /= counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding) * counted_taps(&t.w[2], ow, t.padding)
    put_double(<double*> NULL, y, <double> sum)

cdef inline char* tap_of(const Pool* t, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t ow, Py_ssize_t kd, Py_ssize_t kh, Py_ssize_t kw) noexcept nogil:
    return row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation) + (start_of(&t.w[2], ow) + kw * t.w[2].dilation) * t.arg[0].step[4]

# ------------------------------------------------------------------------------------------------ soft windows

# The mean and the mass of each window of a block, whose maxima are in the bench's total.
cdef void soft_windows(const Pool* t, Bench* b, Packed[storage]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, double* mean, double* total, storage* _) noexcept nogil:
    cdef Partial[storage] m = partial_at(_, b.total), mass = partial_at(_, b.mass), moment = partial_at(_, b.moment)
    cdef Py_ssize_t kd, kh, tap
    begin_sum(_, &mass, n)
    begin_sum(_, &moment, n)
    for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
        for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
            tap = 0
            while tap < t.w[2].window:
                if t.w[2].window > TAPS:
                    plan_taps(_, p, &t.w[2], first, n, tap)
                pack_row(_, p, &t.w[2], row_of(&t.arg[0], plane, start_of(&t.w[0], od) + kd * t.w[0].dilation, start_of(&t.w[1], oh) + kh * t.w[1].dilation), t.arg[0].step[4], t.arg[0].code, True)
                add_soft(_, &m, &mass, &moment, p)
                tap += TAPS
    soft_means(_, &mass, &moment, mean, total, n)

cdef void soft_again(const Pool* t, char* plane, char* y, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    # A moment of doubles may overflow where the mean does not.
    cdef Py_ssize_t j, kd, kh, kw, i
    cdef double v, top
    cdef long double mass, moment, share
    for j in range(n):
        gather(&v, y + j * t.arg[1].step[4], 0, 1, DOUBLE)
        if isfinite(v):
            continue
        top = -INFINITY
        mass = moment = 0
        for i in range(2):
            for kd in range(first_tap(&t.w[0], od), end_tap(&t.w[0], od)):
                for kh in range(first_tap(&t.w[1], oh), end_tap(&t.w[1], oh)):
                    for kw in range(first_tap(&t.w[2], first + j), end_tap(&t.w[2], first + j)):
                        gather(&v, tap_of(t, plane, od, oh, first + j, kd, kh, kw), 0, 1, t.arg[0].code)
                        if i == 0:
                            top = v if v > top or v != v else top
                        else:
                            share = exp(v - top)
                            mass += share
                            moment += share * v if share != 0 else share
        put_double(<double*> NULL, y + j * t.arg[1].step[4], <double> (moment / mass))

# ------------------------------------------------------------------------------------------------ across channels

cdef void reach_of(const Pool* t, const Planes* a, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t ow, Reach* r) noexcept nogil:
    cdef Py_ssize_t o[3]
    cdef Py_ssize_t first, at[3]
    cdef int i
    o[0] = od
    o[1] = oh
    o[2] = ow
    r.x = plane
    for i in range(3):
        first = first_tap(&t.w[i], o[i])
        r.taps[i] = end_tap(&t.w[i], o[i]) - first
        at[i] = start_of(&t.w[i], o[i]) + first * t.w[i].dilation
        r.step[i] = a.step[2 + i] * t.w[i].dilation
        r.x += at[i] * a.step[2 + i]
    r.first = (at[0] * t.w[1].size + at[1]) * t.w[2].size + at[2]
    r.place[0] = t.w[1].size * t.w[2].size * t.w[0].dilation
    r.place[1] = t.w[2].size * t.w[1].dilation
    r.place[2] = t.w[2].dilation

cdef void pool_across(const Pool* t, Py_ssize_t unit, Py_ssize_t last, storage* _) noexcept nogil:
    # A unit is a row of outputs with all their channels.
    cdef const Planes* x = &t.arg[0]
    cdef const Planes* y = &t.arg[1]
    cdef Py_ssize_t channels = x.shape[t.channel], batch, od, oh, ow, c, count
    cdef int other = 1 - t.channel
    cdef Reach r
    cdef char* source
    cdef char* target
    cdef char* index
    while unit < last:
        oh = unit % t.w[1].count
        od = unit // t.w[1].count % t.w[0].count
        batch = unit // t.w[1].count // t.w[0].count
        source = x.data + batch * x.step[other]
        for ow in range(t.w[2].count):
            target = row_of(y, y.data + batch * y.step[other], od, oh) + ow * y.step[4]
            reach_of(t, x, source, od, oh, ow, &r)
            if t.op == POOL_MEAN:
                count = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding) * counted_taps(&t.w[2], ow, t.padding)
                if mean_across(_, target, &r, channels, 1.0 / count if storage is not double else count, t.streaming):
                    for c in range(channels):
                        mean_again(t, source + c * x.itemsize, target + c * y.itemsize, od, oh, ow)
            else:
                index = NULL
                if t.index:
                    index = row_of(&t.arg[2], t.arg[2].data + batch * t.arg[2].step[other], od, oh) + ow * t.arg[2].step[4]
                max_across(_, target, index, &r, channels, t.streaming)
        unit += 1

# ------------------------------------------------------------------------------------------------ gradients of means

# arg: dy, perhaps x, dx.  A unit is a row of dx, or a block of its columns: it takes from the windows that reach it, in their order.
cdef void spread_rows(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* dy = &t.arg[0]
    cdef const Planes* x = &t.arg[1]
    cdef const Planes* dx = &t.arg[1 if t.op == POOL_MEAN else 2]
    cdef const Windows* w = &t.w[2]
    cdef Py_ssize_t blocks = (w.size + COLUMNS - 1) // COLUMNS, outs = (w.count + OUTPUTS - 1) // OUTPUTS
    cdef Py_ssize_t near_d = ((t.w[0].window - 1) * t.w[0].dilation) // t.w[0].stride + 1, near_h = ((t.w[1].window - 1) * t.w[1].dilation) // t.w[1].stride + 1
    cdef Py_ssize_t near_w = min(outs, (COLUMNS + (w.window - 1) * w.dilation) // w.stride // OUTPUTS + 2)
    cdef bint keeps = t.op == POOL_SOFT and near_d * near_h * near_w <= KEPT_STATS
    cdef Py_ssize_t plane, d, h, od, oh, ob, from_, to, first, n, i, slot, before = -1, counted = -1
    cdef Pool forward
    cdef bint evenly
    cdef Streamed[storage] streamed
    cdef Bench b
    cdef Packed[storage] p
    cdef double* high
    cdef double* low
    cdef double* sums
    cdef double* stats
    cdef Py_ssize_t* tags
    cdef char* source
    cdef char* target
    open_bench(&b, room)
    p.room = <acc[storage]*> b.packed
    high = <double*> (<char*> b.packed + BENCH_BYTES)
    low = high + COLUMNS
    sums = low + COLUMNS + MARGIN
    stats = sums + 2 * (OUTPUTS + 16 + MARGIN)
    tags = <Py_ssize_t*> (stats + KEPT_STATS * 3 * (OUTPUTS + 16))
    forward = t[0]
    forward.arg[0] = x[0]
    evenly = t.op == POOL_MEAN and outs == 1 and blocks == 1 and w.stride <= 2 and w.dilation == 1 and w.window <= MARGIN and w.size + w.before <= min(w.stride * (OUTPUTS + 16), COLUMNS - 64)
    while unit < last:
        h = unit % t.w[1].size
        d = unit // t.w[1].size % t.w[0].size
        from_ = unit // t.w[1].size // t.w[0].size % blocks * COLUMNS
        plane = unit // t.w[1].size // t.w[0].size // blocks
        to = min(from_ + COLUMNS, w.size)
        if before != unit // t.w[1].size // t.w[0].size:
            before = unit // t.w[1].size // t.w[0].size
            for i in range(KEPT_STATS):
                tags[i] = -1
        if not evenly:
            for i in range(to - from_):
                high[i] = low[i] = 0
        ob = 0 if evenly else first_window(w, from_) // OUTPUTS
        while ob * OUTPUTS < end_window(w, to - 1):
            first = ob * OUTPUTS
            n = min(OUTPUTS, w.count - first)
            p.slots = 0
            if t.op == POOL_MEAN:
                begin_numbers(sums, n)
            for od in range(first_window(&t.w[0], d), end_window(&t.w[0], d)):
                if (d - start_of(&t.w[0], od)) % t.w[0].dilation:
                    continue
                for oh in range(first_window(&t.w[1], h), end_window(&t.w[1], h)):
                    if (h - start_of(&t.w[1], oh)) % t.w[1].dilation:
                        continue
                    source = row_of(dy, plane_of(dy, plane), od, oh) + first * dy.step[4]
                    if t.op == POOL_MEAN:
                        i = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                        if counted != i * outs + ob:
                            counted = i * outs + ob
                            fill_counts(t, b.count, i, first, n, storage is not double)
                        add_slopes(_, sums, sums + OUTPUTS + 16 + MARGIN, source, dy.step[4], dy.code, b.count, n)
                        continue
                    slot = (od % near_d * near_h + oh % near_h) * near_w + ob % near_w if keeps else 0
                    i = ((od * t.w[1].count) + oh) * outs + ob
                    if tags[slot] != i:
                        soft_stats(&forward, &b, &p, plane_of(x, plane), od, oh, first, n, stats + slot * 3 * (OUTPUTS + 16), source, dy.step[4], dy.code, _)
                        tags[slot] = i
                    spread_soft(t, &b, &p, row_of(x, plane_of(x, plane), d, h), first, n, stats + slot * 3 * (OUTPUTS + 16), high, low, from_, to, _)
            if evenly:
                fold_numbers(sums, n, _)
                spread_evenly(_, <acc[storage]*> high, sums, w, MARGIN)
            elif t.op == POOL_MEAN:
                fold_numbers(sums, n, _)
                spread_numbers(w, sums, first, n, high, low, from_, to, _)
            ob += 1
        target = row_of(dx, plane_of(dx, plane), d, h) + from_ * dx.step[4]
        if evenly:
            put_accumulators(_, target, dx.step[4], <acc[storage]*> high + w.before, to, &streamed if t.streaming else NULL)
            unit += 1
            continue
        put_sums(_, target, dx.step[4], high, low, to - from_, t.streaming)
        unit += 1
    finish_line(&streamed)

# Across channels: a unit is a row of dx with all of them.
cdef void spread_channels(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* dy = &t.arg[0]
    cdef const Planes* dx = &t.arg[1]
    cdef int other = 1 - t.channel, i
    cdef Py_ssize_t at[3]
    cdef Py_ssize_t first[3]
    cdef Py_ssize_t batch, o
    cdef Sources r
    cdef double* counted = <double*> room  # of each window along each axis
    cdef const double* of_axis[3]
    cdef char* target
    r.full = t.w[0].window * t.w[1].window * t.w[2].window
    for i in range(3):
        of_axis[i] = counted
        for o in range(t.w[i].count):
            counted[o] = counted_taps(&t.w[i], o, t.padding)
        counted += t.w[i].count
    while unit < last:
        at[1] = unit % t.w[1].size
        at[0] = unit // t.w[1].size % t.w[0].size
        batch = unit // t.w[1].size // t.w[0].size
        target = row_of(dx, dx.data + batch * dx.step[other], at[0], at[1])
        for o in range(t.w[2].size):
            at[2] = o
            r.dy = dy.data + batch * dy.step[other]
            for i in range(3):
                if i == 2 or o == 0:
                    first[i] = first_window(&t.w[i], at[i])
                    r.many[i] = max(0, end_window(&t.w[i], at[i]) - first[i])
                r.step[i] = dy.step[2 + i]
                r.dy += first[i] * r.step[i]
                r.counted[i] = of_axis[i] + first[i]
            spread_across(_, target + o * dx.step[4], &r, dx.shape[t.channel], t.streaming)
        unit += 1

cdef inline void begin_numbers(double* sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n + 15):
        sums[j] = sums[OUTPUTS + 16 + MARGIN + j] = 0

# The outputs of a block whose tap lies in columns from_ to to: from the first to one past the last.
cdef inline Py_ssize_t output_at(const Windows* w, Py_ssize_t tap, Py_ssize_t column, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t past = column + w.before - tap * w.dilation
    return max(0, min(n, (past + w.stride - 1) // w.stride - first if past > 0 else 0))

# Sums of doubles from two to one.
cdef inline void fold_numbers(double* sums, Py_ssize_t n, storage* _) noexcept nogil:
    cdef double* second = sums + OUTPUTS + 16 + MARGIN
    cdef Py_ssize_t j
    if storage is double:
        for j in range(n):
            sums[j] += second[j] if second[j] == second[j] else 0

# From windows to columns; windows come in order for each column, since the last tap is the first window's.
cdef void spread_numbers(const Windows* w, double* sums, Py_ssize_t first, Py_ssize_t n, double* high, double* low, Py_ssize_t from_, Py_ssize_t to, storage* _) noexcept nogil:
    cdef Py_ssize_t tap = w.window - 1, j, end, at
    while tap >= 0:
        j = output_at(w, tap, from_, first, n)
        end = output_at(w, tap, to, first, n)
        if j < end:
            at = start_of(w, first + j) + tap * w.dilation - from_
            add_strided(_, high + at, low + at, w.stride, sums + j, end - j)
        tap -= 1

# Maxima, means and slopes (dy over mass) of a block of windows, one after the other.
cdef void soft_stats(const Pool* t, Bench* b, Packed[storage]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, double* stats, const char* dy, Py_ssize_t step, int code, storage* _) noexcept nogil:
    cdef double v[OUTPUTS]
    cdef double* mean = stats + OUTPUTS + 16
    cdef double* slope = mean + OUTPUTS + 16
    cdef Partial[storage] r = reduce_windows(t, b, p, plane, od, oh, first, n, 0)
    cdef Py_ssize_t j
    soft_windows(t, b, p, plane, od, oh, first, n, mean, slope, _)
    gather(<double*> v, dy, step, n, code)
    for j in range(n):
        slope[j] = v[j] / slope[j]
    copy_tile(<char*> stats, <char*> r.m, (OUTPUTS + 16) * 8)

cdef void spread_soft(const Pool* t, Bench* b, Packed[storage]* p, const char* row, Py_ssize_t first, Py_ssize_t n, double* stats, double* high, double* low, Py_ssize_t from_, Py_ssize_t to, storage* _) noexcept nogil:
    cdef const Windows* w = &t.w[2]
    cdef double terms[OUTPUTS + 16]
    cdef Py_ssize_t tap = (w.window - 1) // TAPS * TAPS, i, j, end, at
    while tap >= 0:
        plan_taps(_, p, w, first, n, tap)
        pack_row(_, p, w, row, t.arg[1].step[4], t.arg[1].code, True)
        i = p.taps - 1
        while i >= 0:
            j = output_at(w, tap + i, from_, first, n)
            end = output_at(w, tap + i, to, first, n)
            if j < end:
                soft_gradient(_, <double*> terms, p, i, <acc[storage]*> stats, stats + OUTPUTS + 16, stats + 2 * (OUTPUTS + 16))
                at = start_of(w, first + j) + (tap + i) * w.dilation - from_
                add_strided(_, high + at, low + at, w.stride, <double*> terms + j, end - j)
            i -= 1
        tap -= TAPS

# ------------------------------------------------------------------------------------------------ from maxima to their places

# arg: dy or y, indices, dx or x.  A unit is a band of a plane, or of as many as lie side by side: what belongs there is looked for in
# the whole plane, but stretches that hold nothing of the band are passed over.
cdef struct Bands:
    Py_ssize_t size, pixels   # elements of a plane, and outputs
    Py_ssize_t band, bands    # elements of a band, and bands of a plane
    Py_ssize_t wide, groups   # planes side by side, and such groups

cdef Bands bands_of(const Pool* t) noexcept nogil:
    cdef const Planes* x = &t.arg[2]
    cdef Bands s
    s.size = x.shape[2] * x.shape[3] * x.shape[4]
    s.pixels = t.arg[0].shape[2] * t.arg[0].shape[3] * t.arg[0].shape[4]
    s.wide = SIDE_BY_SIDE if t.across else 1
    s.band = BAND // s.wide
    s.bands = (s.size + s.band - 1) // s.band
    s.groups = t.planes if not t.across else x.shape[1 - t.channel] * ((x.shape[t.channel] + s.wide - 1) // s.wide)
    return s

# Planes of a group: where the first is, how many there are, and bytes from one to the next.
cdef inline char* group_of(const Pool* t, const Planes* a, const Bands* s, Py_ssize_t group, Py_ssize_t* wide) noexcept nogil:
    cdef Py_ssize_t many
    wide[0] = 1
    if not t.across:
        return plane_of(a, group)
    many = (a.shape[t.channel] + s.wide - 1) // s.wide
    wide[0] = min(s.wide, a.shape[t.channel] - group % many * s.wide)
    return a.data + group // many * a.step[1 - t.channel] + group % many * s.wide * a.step[t.channel]

# Pixels first to first + n of a group, all its planes for one pixel after another.
cdef void take_pixels(const Pool* t, const Planes* a, char* group, Py_ssize_t wide, Py_ssize_t first, Py_ssize_t n, number* to) noexcept nogil:
    cdef Py_ssize_t d, h, w, run, i
    cdef char* row
    while n > 0:
        w = first % a.shape[4]
        h = first // a.shape[4] % a.shape[3]
        d = first // a.shape[4] // a.shape[3]
        run = min(n, a.shape[4] - w)
        row = row_of(a, group, d, h) + w * a.step[4]
        if wide == 1:
            gather(to, row, a.step[4], run, a.code)
        else:
            for i in range(run):
                gather(to + i * wide, row + i * a.step[4], a.step[t.channel], wide, a.code)
        to += run * wide
        first += run
        n -= run

# Whether the elements of a plane follow each other at one distance. An axis of one has any step.
cdef inline bint evenly_spaced(const Planes* a) noexcept nogil:
    cdef bint rows = a.shape[3] == 1 or a.step[3] == a.step[4] * a.shape[4]
    return rows and (a.shape[2] == 1 or a.step[2] == a.step[4] * a.shape[4] * a.shape[3])
# And whether they can be read as they lie.
cdef inline bint readable_pixels(const Planes* a) noexcept nogil:
    return evenly_spaced(a) and <size_t> a.data % a.itemsize == 0

cdef inline Py_ssize_t pixels_at_once(Py_ssize_t wide) noexcept nogil:
    return ITEMS // wide

# The lowest and the largest place in each stretch of pixels.
cdef void range_of_places(const Pool* t, const Bands* s, Py_ssize_t group, long long* low, long long* high) noexcept nogil:
    cdef long long place[ITEMS]
    cdef Py_ssize_t wide = 1, first = 0, n, i = 0, j
    cdef char* at = group_of(t, &t.arg[1], s, group, &wide)
    while first < s.pixels:
        n = min(s.pixels - first, pixels_at_once(wide))
        if t.arg[1].code == INT64 and readable_pixels(&t.arg[1]):
            range_of_pixels(at + first * t.arg[1].step[4], t.arg[1].step[4], n, wide, &low[i], &high[i])
            i += 1
            first += n
            continue
        take_pixels(t, &t.arg[1], at, wide, first, n, <long long*> place)
        low[i] = high[i] = place[0]
        for j in range(1, n * wide):
            low[i] = min(low[i], place[j])
            high[i] = max(high[i], place[j])
        i += 1
        first += n

# Elements first to first + n of a plane go to where they belong.
cdef void put_band(const Pool* t, const Planes* x, char* group, Py_ssize_t wide, Py_ssize_t first, Py_ssize_t n, const double* high, const double* low, storage* _) noexcept nogil:
    cdef Py_ssize_t d, h, w, run, i
    cdef char* row
    cdef bint one = evenly_spaced(x)
    while n > 0:
        w = first % x.shape[4]
        h = first // x.shape[4] % x.shape[3]
        d = first // x.shape[4] // x.shape[3]
        run = n if one else min(n, x.shape[4] - w)
        row = row_of(x, group, d, h) + w * x.step[4]
        if wide == 1:
            put_sums(_, row, x.step[4], high, low, run, t.streaming)
        else:
            put_pixels(_, row, x.step[4], high, low, run, wide, t.streaming)
        high += run * wide
        low += run * wide
        first += run
        n -= run

cdef void put_moved(const Pool* t, const Planes* x, char* group, Py_ssize_t wide, Py_ssize_t first, Py_ssize_t n, const moved* v) noexcept nogil:
    cdef Py_ssize_t d, h, w, run, i
    cdef char* row
    while n > 0:
        w = first % x.shape[4]
        h = first // x.shape[4] % x.shape[3]
        d = first // x.shape[4] // x.shape[3]
        run = min(n, x.shape[4] - w)
        row = row_of(x, group, d, h) + w * x.step[4]
        if wide == 1:
            scatter(row, x.step[4], v, run)
        else:
            for i in range(run):
                scatter(row + i * x.step[4], x.step[t.channel], v + i * wide, wide)
        v += run * wide
        first += run
        n -= run

# A thread's memory for bands: sums or elements, and the ranges of places.
cdef Py_ssize_t band_bytes(const Pool* t) noexcept nogil:
    cdef Bands s = bands_of(t)
    return 2 * 8 * BAND + 64 + (2 * 8 * ((s.pixels + pixels_at_once(s.wide) - 1) // pixels_at_once(s.wide)) if s.bands > 1 else 0)

cdef void gradient_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef Bands s = bands_of(t)
    cdef double* high = <double*> ((<size_t> room + 63) // 64 * 64)
    cdef double* low = high + BAND
    cdef long long* least_place = <long long*> (low + BAND)
    cdef long long* most = least_place + (s.pixels + pixels_at_once(s.wide) - 1) // pixels_at_once(s.wide)
    cdef long long place[ITEMS]
    cdef double dy[ITEMS]
    cdef Py_ssize_t group, from_, length, wide = 1, first, n, i, j, known = -1
    cdef bint direct = t.arg[0].code == code_of_storage(_) and readable_pixels(&t.arg[0]) and t.arg[1].code == INT64 and readable_pixels(&t.arg[1])
    cdef char* source
    cdef char* places
    while unit < last:
        group = unit // s.bands
        from_ = unit % s.bands * s.band
        length = min(s.band, s.size - from_)
        if s.bands > 1 and known != group:
            range_of_places(t, &s, group, least_place, most)
            known = group
        source = group_of(t, &t.arg[0], &s, group, &wide)
        places = group_of(t, &t.arg[1], &s, group, &wide)
        for j in range(length * wide):
            high[j] = 0
        if storage is double:
            for j in range(length * wide):
                low[j] = 0
        first = i = 0
        if direct and s.bands == 1:
            scatter_pixels(_, high, low, places, t.arg[1].step[4], source, t.arg[0].step[4], s.pixels, wide, from_, length)
            first = s.pixels
        while first < s.pixels:
            n = min(s.pixels - first, pixels_at_once(wide))
            if s.bands == 1 or (least_place[i] < from_ + length and most[i] >= from_):
                if direct:
                    scatter_pixels(_, high, low, places + first * t.arg[1].step[4], t.arg[1].step[4], source + first * t.arg[0].step[4], t.arg[0].step[4], n, wide, from_, length)
                    i += 1
                    first += n
                    continue
                take_pixels(t, &t.arg[1], places, wide, first, n, <long long*> place)
                take_pixels(t, &t.arg[0], source, wide, first, n, <double*> dy)
                scatter_sums(_, high, low, <long long*> place, <double*> dy, n * wide, wide, from_, length)
            i += 1
            first += n
        put_band(t, &t.arg[2], group_of(t, &t.arg[2], &s, group, &wide), wide, from_, length, high, low, _)
        unit += 1

cdef void moved_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, moved* _) noexcept nogil:
    cdef Bands s = bands_of(t)
    cdef moved* band = <moved*> ((<size_t> room + 63) // 64 * 64)
    cdef long long* least_place = <long long*> (<double*> band + 2 * BAND)
    cdef long long* most = least_place + (s.pixels + pixels_at_once(s.wide) - 1) // pixels_at_once(s.wide)
    cdef long long place[ITEMS]
    cdef moved y[ITEMS]
    cdef Py_ssize_t group, from_, length, wide = 1, first, n, i, j, known = -1
    cdef char* source
    cdef char* places
    while unit < last:
        group = unit // s.bands
        from_ = unit % s.bands * s.band
        length = min(s.band, s.size - from_)
        if s.bands > 1 and known != group:
            range_of_places(t, &s, group, least_place, most)
            known = group
        source = group_of(t, &t.arg[0], &s, group, &wide)
        places = group_of(t, &t.arg[1], &s, group, &wide)
        for j in range(length * wide):
            band[j] = 0
        first = i = 0
        while first < s.pixels:
            n = min(s.pixels - first, pixels_at_once(wide))
            if s.bands == 1 or (least_place[i] < from_ + length and most[i] >= from_):
                take_pixels(t, &t.arg[1], places, wide, first, n, <long long*> place)
                take_pixels(t, &t.arg[0], source, wide, first, n, <moved*> y)
                scatter_last(band, <long long*> place, <moved*> y, n * wide, wide, from_, length)
            i += 1
            first += n
        put_moved(t, &t.arg[2], group_of(t, &t.arg[2], &s, group, &wide), wide, from_, length, band)
        unit += 1

# ------------------------------------------------------------------------------------------------ from Python

cdef enum PoolOp:
    MAX_POOL, AVG_POOL, SOFTMAX_POOL, MAX_POOL_BACKWARD, MAX_UNPOOL, AVG_POOL_BACKWARD, SOFTMAX_POOL_BACKWARD

cdef dict POOLS = {
    "max_pool": MAX_POOL, "avg_pool": AVG_POOL, "softmax_pool": SOFTMAX_POOL, "max_pool_backward": MAX_POOL_BACKWARD,
    "max_unpool": MAX_UNPOOL, "avg_pool_backward": AVG_POOL_BACKWARD, "softmax_pool_backward": SOFTMAX_POOL_BACKWARD,
}

cdef void pool_units(const Pool* t, int op, int code, Py_ssize_t unit, Py_ssize_t last, char* room) noexcept nogil:
    if op == MAX_POOL:
        if code == HALF:
            forward_units(t, unit, last, room, <half*> NULL)
        elif code == BFLOAT16:
            forward_units(t, unit, last, room, <bfloat16*> NULL)
        elif code == FLOAT:
            forward_units(t, unit, last, room, <float*> NULL)
        elif code == DOUBLE:
            forward_units(t, unit, last, room, <double*> NULL)
        elif code == UINT32 or code == INT64 or code == UINT64:
            pool_rows(t, unit, last, room, <long long*> NULL)
        else:
            pool_rows(t, unit, last, room, <int*> NULL)
    elif op == MAX_UNPOOL:
        if t.arg[2].itemsize == 1:
            moved_bands(t, unit, last, room, <unsigned char*> NULL)
        elif t.arg[2].itemsize == 2:
            moved_bands(t, unit, last, room, <unsigned short*> NULL)
        elif t.arg[2].itemsize == 4:
            moved_bands(t, unit, last, room, <unsigned int*> NULL)
        else:
            moved_bands(t, unit, last, room, <unsigned long long*> NULL)
    elif code == HALF:
        float_units(t, op, unit, last, room, <half*> NULL)
    elif code == BFLOAT16:
        float_units(t, op, unit, last, room, <bfloat16*> NULL)
    elif code == FLOAT:
        float_units(t, op, unit, last, room, <float*> NULL)
    else:
        float_units(t, op, unit, last, room, <double*> NULL)

cdef void forward_units(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    if t.across:
        pool_across(t, unit, last, _)
    else:
        pool_rows(t, unit, last, room, _)

cdef void float_units(const Pool* t, int op, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    if op == AVG_POOL or op == SOFTMAX_POOL:
        forward_units(t, unit, last, room, _)
    elif op == MAX_POOL_BACKWARD:
        gradient_bands(t, unit, last, room, _)
    elif t.across:
        spread_channels(t, unit, last, room, _)
    else:
        spread_rows(t, unit, last, room, _)

cdef void set_planes(Planes* a, cnp.ndarray x, int code) noexcept:
    cdef int d
    a.data = <char*> cnp.PyArray_DATA(x)
    a.code = code
    a.itemsize = cnp.PyArray_ITEMSIZE(x)
    for d in range(5):
        a.step[d] = cnp.PyArray_STRIDES(x)[d]
        a.shape[d] = cnp.PyArray_DIMS(x)[d]

cdef bint channels_last(const Pool* t, int channel, int nargs) noexcept:
    # Whether neighbours along one of the first two axes are neighbours in memory, in each operand.
    cdef int i
    for i in range(nargs):
        if t.arg[i].step[channel] != t.arg[i].itemsize:
            return False
    return t.arg[0].shape[channel] > 1

cdef bint lines_of(const Planes* a) noexcept:
    # Whether the channels of each element begin a cache line.
    cdef int d
    cdef bint even = <size_t> a.data % 64 == 0
    for d in range(5):
        even = even and (a.step[d] % 64 == 0 or a.step[d] == a.itemsize)
    return even

cdef object choose_windows = None  # planner.choose_windows

def configure_windows(planner_choose_windows):
    """Tell this module who plans the ops on windows."""
    global choose_windows
    choose_windows = planner_choose_windows

def pool(str op, dtype, tuple inputs, tuple outputs, tuple axes=(), bint padding=False, bint dry=False):
    """Run a pooling op over views of five axes: two of planes, and depth, height and width. `axes` says how windows lie along the last
    three, in the order of `softcore.windows.Axis`."""
    cdef Pool t
    cdef int which = POOLS[op], code = code_of(dtype), nargs = 0, threads, i, whole
    cdef Py_ssize_t units, bytes = 64, work
    cdef char* room
    cdef bint same = True
    for a in inputs + outputs:
        set_planes(&t.arg[nargs], a, code_of(a.dtype))
        nargs += 1
    whole = nargs - 1 if which >= MAX_POOL_BACKWARD else 0  # the operand of the input's shape
    t.op = POOL_MAX if which == MAX_POOL else POOL_SOFT if which == SOFTMAX_POOL or which == SOFTMAX_POOL_BACKWARD else POOL_MEAN
    t.index = which == MAX_POOL and nargs == 3
    t.padding = padding
    t.planes = t.arg[whole].shape[0] * t.arg[whole].shape[1]
    for i in range(len(axes)):
        t.w[i].size, t.w[i].count, t.w[i].window, t.w[i].stride, t.w[i].dilation, t.w[i].before, t.w[i].after = axes[i]
    for i in range(nargs):
        same = same and (t.arg[i].code == code or (which == MAX_POOL and i == 2) or (which == MAX_POOL_BACKWARD and i == 1))
    t.channel = 0 if channels_last(&t, 0, nargs) else 1
    t.across = channels_last(&t, t.channel, nargs)
    work = t.planes * t.arg[whole].shape[2] * t.arg[whole].shape[3] * t.arg[whole].shape[4]
    if which == MAX_POOL or which == AVG_POOL or which == SOFTMAX_POOL:
        t.across = t.across and same and code <= DOUBLE and which != SOFTMAX_POOL
        units = t.w[0].count * t.w[1].count * (t.arg[0].shape[1 - t.channel] if t.across else t.planes * ((t.w[2].count + OUTPUTS - 1) // OUTPUTS))
        bytes += BENCH_BYTES
    elif which == MAX_POOL_BACKWARD or which == MAX_UNPOOL:
        units = bands_of(&t).groups * bands_of(&t).bands
        bytes += band_bytes(&t)
    elif which == AVG_POOL_BACKWARD and t.across and same and t.w[0].dilation == 1 and t.w[1].dilation == 1 and t.w[2].dilation == 1:
        units = t.w[0].size * t.w[1].size * t.arg[whole].shape[1 - t.channel]
        bytes += 8 * (t.w[0].count + t.w[1].count + t.w[2].count)
    else:
        t.across = False
        units = t.planes * t.w[0].size * t.w[1].size * ((t.w[2].size + COLUMNS - 1) // COLUMNS)
        bytes += BENCH_BYTES + 8 * (2 * COLUMNS + 3 * KEPT_STATS * (OUTPUTS + 16) + 2 * (OUTPUTS + 16) + 3 * MARGIN + KEPT_STATS)
    if which == MAX_UNPOOL:
        for i in range(0, 3, 2):
            t.arg[i].code = {1: UINT8, 2: UINT16, 4: UINT32, 8: UINT64}[t.arg[i].itemsize] | (t.arg[i].code & SWAPPED)
    plan = choose_windows(work, units, t.arg[whole].itemsize, t.across)
    if dry:
        return plan
    threads = plan[1]
    t.streaming = plan[2] and (not t.across or which == MAX_POOL_BACKWARD or lines_of(&t.arg[1]))
    room = <char*> malloc(bytes * threads)
    if room == NULL:
        raise MemoryError()
    with nogil:
        if threads == 1:
            pool_units(&t, which, code, 0, units, room)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                pool_units(&t, which, code, units * i // threads, units * (i + 1) // threads, room + bytes * i)
        if t.streaming:
            fence()
    free(room)
