# Gradients of pooling: windows are taken from where they lie, or spread over rows; and what has an index goes to its place.

# ------------------------------------------------------------------------------------------------ rows of a gradient

# Rows of dx, or stretches of them, one after the other; the windows that hold each element of each axis; and those of the present row.
cdef struct Course:
    Py_ssize_t plane, block, d, h, blocks
    Holders* holders[3]
    double* counted          # of the windows along a row, which each counts as so many elements
    Staged staged
    Taking taken

cdef inline void begin_course(const Pool* t, Course* s, Py_ssize_t unit, Py_ssize_t blocks) noexcept nogil:
    s.blocks = blocks
    s.h = unit % t.w[1].size
    s.d = unit // t.w[1].size % t.w[0].size
    s.block = unit // t.w[1].size // t.w[0].size % blocks
    s.plane = unit // t.w[1].size // t.w[0].size // blocks

cdef inline void next_row(const Pool* t, Course* s) noexcept nogil:
    s.h += 1
    if s.h == t.w[1].size:
        s.h = 0
        s.d += 1
        if s.d == t.w[0].size:
            s.d = 0
            s.block += 1
            if s.block == s.blocks:
                s.block = 0
                s.plane += 1

cdef inline bint is_same(Holders a, Holders b) noexcept nogil:
    return a.first == b.first and a.end == b.end

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
    cdef bint repeats = t.op == POOL_MEAN and t.w[0].dilation == 1 and t.w[1].dilation == 1
    cdef Py_ssize_t plane = -1, block = -1, od, oh, ob, from_, to, first, n, i, slot, counted = -1
    cdef Holders deep, tall, last_deep, last_tall
    cdef Course s
    cdef Pool forward
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
    low = high + COLUMNS + 16
    sums = low + COLUMNS + 16
    stats = sums + 2 * (OUTPUTS + 16)
    tags = <Py_ssize_t*> (stats + KEPT_STATS * 3 * (OUTPUTS + 16))
    forward = t[0]
    forward.arg[0] = x[0]
    begin_course(t, &s, unit, blocks)
    deep = Holders(first_window(&t.w[0], s.d), end_window(&t.w[0], s.d))
    while unit < last:
        from_ = s.block * COLUMNS
        to = min(from_ + COLUMNS, w.size)
        if s.h == 0:
            deep = Holders(first_window(&t.w[0], s.d), end_window(&t.w[0], s.d))
        if s.plane != plane:
            for i in range(KEPT_STATS if keeps else 1):
                tags[i] = -1
        if s.plane != plane or s.block != block:
            plane = s.plane
            block = s.block
            last_deep.first = -1
        # Without dilation rows that the same windows hold take the same of means.
        tall = Holders(first_window(&t.w[1], s.h), end_window(&t.w[1], s.h))
        if not (repeats and is_same(deep, last_deep) and is_same(tall, last_tall)):
            last_deep = deep
            last_tall = tall
            for i in range(to - from_):
                high[i] = low[i] = 0
            ob = first_window(w, from_) // OUTPUTS
            while ob * OUTPUTS < end_window(w, to - 1):
                first = ob * OUTPUTS
                n = min(OUTPUTS, w.count - first)
                p.slots = 0
                if t.op == POOL_MEAN:
                    begin_numbers(sums, n)
                for od in range(deep.first, deep.end):
                    if (s.d - start_of(&t.w[0], od)) % t.w[0].dilation:
                        continue
                    for oh in range(tall.first, tall.end):
                        if (s.h - start_of(&t.w[1], oh)) % t.w[1].dilation:
                            continue
                        source = row_of(dy, plane_of(dy, plane), od, oh) + first * dy.step[4]
                        if t.op == POOL_MEAN:
                            i = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                            if counted != i * outs + ob:
                                counted = i * outs + ob
                                fill_counts(t, b.count, i, first, n, storage is not double)
                            add_slopes(_, sums, sums + OUTPUTS + 16, source, dy.step[4], dy.code, b.count, n)
                            continue
                        slot = (od % near_d * near_h + oh % near_h) * near_w + ob % near_w if keeps else 0
                        i = ((od * t.w[1].count) + oh) * outs + ob
                        if tags[slot] != i:
                            soft_stats(&forward, &b, &p, plane_of(x, plane), od, oh, first, n, stats + slot * 3 * (OUTPUTS + 16), source, dy.step[4], dy.code, _)
                            tags[slot] = i
                        spread_soft(t, &b, &p, row_of(x, plane_of(x, plane), s.d, s.h), first, n, stats + slot * 3 * (OUTPUTS + 16), high, low, from_, to, _)
                if t.op == POOL_MEAN:
                    fold_numbers(sums, n, _)
                    spread_numbers(w, sums, first, n, high, low, from_, to, _)
                ob += 1
        target = row_of(dx, plane_of(dx, plane), s.d, s.h) + from_ * dx.step[4]
        put_sums(_, target, dx.step[4], high, low, to - from_, t.streaming)
        next_row(t, &s)
        unit += 1

cdef inline bint lie_apart(const Windows* w) noexcept nogil:
    cdef int i
    for i in range(3):
        if w[i].dilation > 1 or w[i].window > w[i].stride:
            return False
    return True

# Means whose windows share no element: the units of spread_rows.  Rows that one window holds, or none, are alike, and copied.
cdef void spread_apart(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* dy = &t.arg[0]
    cdef const Planes* dx = &t.arg[1]
    cdef const Windows* w = &t.w[2]
    cdef Py_ssize_t plane = -1, block = -1, like = 0, counted = -1, from_, to, od, oh, first, end, n, i  # like: the first row that is not as the last
    cdef storage* line = <storage*> ((<size_t> room + 63) // 64 * 64)
    cdef storage* at
    cdef double* count = <double*> line + COLUMNS + 16
    cdef char* target
    cdef Staged staged
    cdef Course s
    open_staged(&staged, <char*> (count + OUTPUTS + 16), t.streaming)
    begin_course(t, &s, unit, (w.size + COLUMNS - 1) // COLUMNS)
    while unit < last:
        from_ = s.block * COLUMNS
        to = min(from_ + COLUMNS, w.size)
        if s.plane != plane or s.block != block or s.h == 0 or s.h >= like:
            plane = s.plane
            block = s.block
            od = first_window(&t.w[0], s.d)
            oh = first_window(&t.w[1], s.h)
            at = line
            if od < end_window(&t.w[0], s.d) and oh < end_window(&t.w[1], s.h):
                like = end_within(&t.w[1], oh)
                i = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
                first = first_window(w, from_)
                end = end_window(w, to - 1)
                while first < end:
                    n = min(OUTPUTS, end - first)
                    if counted != i * w.count + first:
                        counted = i * w.count + first
                        fill_counts(t, count, i, first, min(OUTPUTS, w.count - first), storage is not double)
                    at = paint_windows(_, line, at, w, first, n, row_of(dy, plane_of(dy, plane), od, oh) + first * dy.step[4], dy.step[4], dy.code, count, from_, to)
                    first += n
            else:
                like = first_within(&t.w[1], oh) if oh < t.w[1].count else t.w[1].size
            paint(at, line + (to - from_), <acc[storage]> 0)
        target = row_of(dx, plane_of(dx, plane), s.d, s.h) + from_ * dx.step[4]
        if dx.step[4] == dx.itemsize:
            i = 0
            while i < to - from_:
                n = min(SPAN, to - from_ - i)
                copy_tile(stage(&staged, target + i * dx.itemsize, n * dx.itemsize), <char*> (line + i), n * dx.itemsize)
                i += n
        else:
            scatter(target, dx.step[4], line, to - from_)
        next_row(t, &s)
        unit += 1
    close_staged(&staged)

# ------------------------------------------------------------------------------------------------ gradients taken where windows lie

# arg: dy, perhaps indices, dx.  A unit is a row of dx with all its channels, or a stretch of one: it takes from the windows that hold
# its elements, as in spread_rows; of maxima in row-major order, and only from those whose index is the element's.

cdef enum:
    ROWS_MATCHED = 4     # rows of windows that hold an element: of more, scattering their maxima costs less
    NARROW = 16          # channels side by side: of fewer too

# Whether windows are few and near enough for that.
cdef bint takes_rows(const Pool* t) noexcept nogil:
    cdef bint near = t.w[2].stride <= 2 or t.across
    cdef int i
    for i in range(3):
        near = near and t.w[i].dilation == 1 and most_holders(&t.w[i]) <= HOLDS
    return near and most_holders(&t.w[0]) * most_holders(&t.w[1]) <= (ROWS_TAKEN if t.op == POOL_MEAN else ROWS_MATCHED)

cdef inline Py_ssize_t most_holders(const Windows* w) noexcept nogil:
    return (w.window + w.stride - 1) // w.stride

cdef Py_ssize_t course_bytes(const Pool* t) noexcept nogil:
    return STAGED_ROOM + sizeof(Holders) * (t.w[0].size + t.w[1].size + t.w[2].size) + 8 * t.w[2].count + 128 + (sizeof(Slopes) if not t.across else bytes_kept_across(t))

cdef char* open_course(const Pool* t, Course* s, Py_ssize_t unit, Py_ssize_t blocks, char* room) noexcept nogil:
    # What follows in the room is for others.
    cdef Py_ssize_t o
    cdef int i
    begin_course(t, s, unit, blocks)
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    open_staged(&s.staged, room, t.streaming)
    room += STAGED_ROOM
    for i in range(3):
        s.holders[i] = <Holders*> room
        find_holders(s.holders[i], &t.w[i])
        room += sizeof(Holders) * t.w[i].size
    s.counted = <double*> room
    for o in range(t.w[2].count):
        s.counted[o] = counted_taps(&t.w[2], o, t.padding)
    return <char*> ((<size_t> (room + 8 * t.w[2].count) + 63) // 64 * 64)

# The rows of windows that hold the present row, of the plane at `dy` and `index`.
cdef inline void rows_held(const Pool* t, Course* s, const char* dy, const char* index) noexcept nogil:
    cdef Py_ssize_t od, oh
    cdef Taking* r = &s.taken
    r.rows = 0
    for od in range(s.holders[0][s.d].first, s.holders[0][s.d].end):
        for oh in range(s.holders[1][s.h].first, s.holders[1][s.h].end):
            r.dy[r.rows] = dy + od * t.arg[0].step[2] + oh * t.arg[0].step[3]
            r.index[r.rows] = index + od * t.arg[1].step[2] + oh * t.arg[1].step[3]
            r.depth[r.rows] = od
            r.height[r.rows] = oh
            if t.op == POOL_MEAN:
                r.counted[r.rows] = counted_taps(&t.w[0], od, t.padding) * counted_taps(&t.w[1], oh, t.padding)
            r.rows += 1

cdef void spread_straight(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* dx = &t.arg[1]
    cdef const Windows* w = &t.w[2]
    cdef Py_ssize_t block = -1, plane = -1, counted = -1, n = 0, i
    cdef bint known = False
    cdef char* source = NULL
    cdef char* target = NULL
    cdef Holders deep, high         # the rows of windows whose sums there are
    cdef Course s
    cdef Slopes* sums = <Slopes*> open_course(t, &s, unit, (w.size + SPAN - 1) // SPAN, room)
    cdef const Taking* r = &s.taken
    cdef char* to
    while unit < last:
        if s.block != block:
            block = s.block
            counted = -1
            known = False
            n = min(SPAN, w.size - block * SPAN)
            begin_span(sums, w, block * SPAN, n)
        if s.plane != plane:
            plane = s.plane
            source = plane_of(&t.arg[0], plane)
            target = plane_of(dx, plane)
            known = False
        if not known or not is_same(deep, s.holders[0][s.d]) or not is_same(high, s.holders[1][s.h]):
            known = True
            deep = s.holders[0][s.d]
            high = s.holders[1][s.h]
            rows_held(t, &s, source, NULL)
            if r.rows == 0:
                begin_sums(_, sums)
            for i in range(r.rows):
                if counted != <Py_ssize_t> r.counted[i]:
                    counted = <Py_ssize_t> r.counted[i]
                    count_span(_, sums, w, counted, t.padding)
                add_to_span(_, sums, r.dy[i], w, i == 0)
        to = stage(&s.staged, row_of(dx, target, s.d, s.h) + block * SPAN * dx.itemsize, n * dx.itemsize)
        spread_row(_, to, sums, w, block * SPAN, n)
        next_row(t, &s)
        unit += 1
    close_staged(&s.staged)

# The same across channels, whose rows have all of them. The places of maxima are kept for as many rows of windows as hold an element, of
# means what each of as many windows of a row brings.
cdef inline Py_ssize_t bytes_kept_across(const Pool* t) noexcept nogil:
    if t.op == POOL_MAX:
        return most_holders(&t.w[0]) * most_holders(&t.w[1]) * place_bytes(t)
    return most_holders(&t.w[2]) * channels_across(t.arg[0].shape[t.channel]) * 8

cdef inline Py_ssize_t place_bytes(const Pool* t) noexcept nogil:
    return t.w[2].count * channels_across(t.arg[0].shape[t.channel]) * (8 if t.arg[0].itemsize == 8 else 4)

# Returns whether a maximum is not in its window.
cdef bint take_across(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef const Planes* dy = &t.arg[0]
    cdef const Planes* index = &t.arg[1]
    cdef const Planes* dx = &t.arg[1 if t.op == POOL_MEAN else 2]
    cdef int other = 1 - t.channel
    cdef Py_ssize_t batch = -1, many = most_holders(&t.w[1]), od, oh, slot, i
    cdef Py_ssize_t tags[ROWS_MATCHED]
    cdef double full = <double> t.w[0].window * t.w[1].window * t.w[2].window
    cdef Course s
    cdef Pixels p
    cdef char* kept = open_course(t, &s, unit, 1, room)
    p.channels = dx.shape[t.channel]
    p.across = channels_across(t.arg[0].shape[t.channel])
    p.pixel = dy.step[4]
    p.index_step = index.step[4]
    p.y_step = dx.step[4]
    p.fresh = t.streaming
    p.sums = <double*> kept
    p.slots = most_holders(&t.w[2])
    while unit < last:
        if s.plane != batch:
            batch = s.plane
            for i in range(ROWS_MATCHED):
                tags[i] = -1
        rows_held(t, &s, dy.data + batch * dy.step[other], index.data + batch * index.step[other])
        p.y = row_of(dx, dx.data + batch * dx.step[other], s.d, s.h)
        p.lines = t.streaming and (<size_t> p.y | p.y_step | p.channels * dx.itemsize) % 64 == 0
        s.staged.past = t.streaming and not p.lines and p.channels * dx.itemsize <= STAGED // 2
        if t.op == POOL_MEAN:
            spread_pixels(_, &p, &s.taken, s.holders[2], t.w[2].size, s.counted, full, &s.staged)
        else:
            for i in range(s.taken.rows):
                od = s.taken.depth[i]
                oh = s.taken.height[i]
                slot = od % most_holders(&t.w[0]) * many + oh % many
                s.taken.places[i] = kept + slot * place_bytes(t)
                s.taken.unknown[i] = tags[slot] != od * t.w[1].count + oh
                tags[slot] = od * t.w[1].count + oh
            if match_pixels(_, &p, &s.taken, s.holders[2], t.w, (s.d * t.w[1].size + s.h) * t.w[2].size, &s.staged):
                return True
        next_row(t, &s)
        unit += 1
    close_staged(&s.staged)
    return False

# max_pool_backward is not told its windows: they are guessed from some of the indices, so that the tiles of an ordinary pooling are taken
# row by row.  Where an index turns out to be elsewhere, everything is done again as if nothing were known.
cdef bint guess_windows(Pool* t) noexcept nogil:
    cdef const Planes* index = &t.arg[1]
    cdef const Planes* dx = &t.arg[2]
    cdef Py_ssize_t total = t.planes, runs = 16, run, i, j, rest, plane, far
    cdef Py_ssize_t o[3]
    cdef Py_ssize_t low[3]
    cdef Py_ssize_t high[3]
    cdef long long place
    for i in range(3):
        t.w[i].size = dx.shape[2 + i]
        t.w[i].count = index.shape[2 + i]
        t.w[i].stride = max(1, (2 * t.w[i].size + t.w[i].count) // (2 * t.w[i].count))
        t.w[i].dilation = 1
        t.w[i].after = 0
        low[i] = 0
        high[i] = 0
        total *= t.w[i].count
    if t.w[0].size * t.w[1].size * t.w[2].size >= 1 << 30:
        return False
    run = min(64, max(4, total // (256 * runs)), total // runs)
    for j in range(runs * run):
        rest = total // runs * (j // run) + (total // runs - run) * (j // run) // (runs - 1) + j % run  # runs begin everywhere in a plane
        for i in range(2, -1, -1):
            o[i] = rest % t.w[i].count
            rest //= t.w[i].count
        plane = rest
        gather(&place, row_of(index, plane_of(index, plane), o[0], o[1]) + o[2] * index.step[4], 0, 1, index.code)
        for i in range(2, -1, -1):
            far = place % t.w[i].size - o[i] * t.w[i].stride
            place //= t.w[i].size
            low[i] = min(low[i], far)
            high[i] = max(high[i], far)
    for i in range(3):
        t.w[i].before = -low[i]
        t.w[i].window = high[i] - low[i] + 1
        if t.w[i].window > 3 * t.w[i].stride or start_of(&t.w[i], t.w[i].count - 1) >= t.w[i].size:  # a window that holds nothing is never looked at
            return False
    return takes_rows(t)

cdef inline void begin_numbers(double* sums, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n + 15):
        sums[j] = sums[OUTPUTS + 16 + j] = 0

# The outputs of a block whose tap lies in columns from_ to to: from the first to one past the last.
cdef inline Py_ssize_t output_at(const Windows* w, Py_ssize_t tap, Py_ssize_t column, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t past = column + w.before - tap * w.dilation
    return max(0, min(n, (past + w.stride - 1) // w.stride - first if past > 0 else 0))

# Sums of doubles from two to one.
cdef inline void fold_numbers(double* sums, Py_ssize_t n, storage* _) noexcept nogil:
    cdef double* second = sums + OUTPUTS + 16
    cdef Py_ssize_t j
    if storage is double:
        for j in range(n):
            sums[j] += second[j] if second[j] == second[j] else 0

# From windows to columns; windows come in order for each column, by taps since the last tap is the first window's.
cdef void spread_numbers(const Windows* w, double* sums, Py_ssize_t first, Py_ssize_t n, double* high, double* low, Py_ssize_t from_, Py_ssize_t to, storage* _) noexcept nogil:
    cdef Py_ssize_t tap = w.window - 1, j, end, at
    if n < w.window:
        for j in range(n):
            at = start_of(w, first + j)
            tap = (from_ - at + w.dilation - 1) // w.dilation if at < from_ else 0
            end = min(w.window, (to - at + w.dilation - 1) // w.dilation) if at < to else 0
            at += tap * w.dilation - from_
            if tap < end:
                add_to_each(_, high + at, low + at, w.dilation, sums[j], end - tap)
        return
    while tap >= 0:
        j = output_at(w, tap, from_, first, n)
        end = output_at(w, tap, to, first, n)
        if j < end:
            at = start_of(w, first + j) + tap * w.dilation - from_
            add_strided(_, high + at, low + at, w.stride, sums + j, end - j)
        tap -= 1

# Maxima, means as they lie below these and slopes (dy over mass) of a block of windows, one after the other.
cdef void soft_stats(const Pool* t, Bench* b, Packed[storage]* p, char* plane, Py_ssize_t od, Py_ssize_t oh, Py_ssize_t first, Py_ssize_t n, double* stats, const char* dy, Py_ssize_t step, int code, storage* _) noexcept nogil:
    cdef double v[OUTPUTS]
    cdef double* mean = stats + OUTPUTS + 16
    cdef double* slope = mean + OUTPUTS + 16
    cdef Partial[storage] r = reduce_windows(t, b, p, plane, od, oh, first, n, 0)
    cdef Py_ssize_t j
    soft_windows(t, b, p, plane, od, oh, first, n, mean, slope, True, _)
    gather(<double*> v, dy, step, n, code)
    for j in range(n):
        slope[j] = v[j] / slope[j]
    copy_tile(<char*> stats, <char*> r.m, (OUTPUTS + 16) * 8)

cdef void spread_soft(const Pool* t, Bench* b, Packed[storage]* p, const char* row, Py_ssize_t first, Py_ssize_t n, double* stats, double* high, double* low, Py_ssize_t from_, Py_ssize_t to, storage* _) noexcept nogil:
    cdef const Windows* w = &t.w[2]
    cdef double terms[OUTPUTS + 16]
    cdef Py_ssize_t begin = taps_from(w, first, n), tap = (taps_to(w, first, n) - 1) // TAPS * TAPS, i, j, end, at
    cdef Stack s
    if t.along:
        s = stack_at(t, &t.arg[1], b, row)
        spread_soft_along(_, high, low, &s, w, first, n, <acc[storage]*> stats, stats + OUTPUTS + 16, stats + 2 * (OUTPUTS + 16), from_, to)
        return
    while tap >= begin:
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
    s.size = x.shape[2] * x.shape[3] * x.shape[4] * interleaved(t)
    s.pixels = t.arg[0].shape[2] * t.arg[0].shape[3] * t.arg[0].shape[4] * interleaved(t)
    s.wide = SIDE_BY_SIDE if t.across and not t.even else 1
    s.band = s.size if t.lands else BAND // s.wide
    s.bands = (s.size + s.band - 1) // s.band
    s.groups = t.planes if not t.across else x.shape[1 - t.channel] * ((x.shape[t.channel] + s.wide - 1) // s.wide if s.wide > 1 else 1)
    return s

# Whether windows go straight to planes that stay in the cache, if these are work for as many threads.
cdef bint lands(const Pool* t, int threads) noexcept nogil:
    cdef Bands s = bands_of(t)
    cdef int axis = t.channel if t.across else 4, i
    for i in range(3):
        if t.arg[i].step[axis] != t.arg[i].itemsize:
            return False
    return t.even and not t.streaming and s.groups >= threads and s.size * t.arg[2].itemsize <= LANDING

# Channels that are one plane's elements: see pool_scatter.h.
cdef inline Py_ssize_t interleaved(const Pool* t) noexcept nogil:
    return t.arg[2].shape[t.channel] if t.across and t.even else 1

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

# Whether that holds for all of them, which need no copy then; channels side by side without a gap.
cdef bint scatters_evenly(const Pool* t) noexcept nogil:
    cdef int i
    for i in range(3):
        if t.across and t.arg[i].step[4] != t.arg[i].itemsize * t.arg[i].shape[t.channel]:
            return False
    return t.arg[1].code == INT64 and t.arg[0].code == t.arg[2].code and evenly_spaced(&t.arg[0]) and evenly_spaced(&t.arg[1]) and evenly_spaced(&t.arg[2])

cdef inline Py_ssize_t pixels_at_once(Py_ssize_t wide) noexcept nogil:
    return ITEMS // wide

# The lowest and the largest place in each stretch of pixels. Returns whether one lies outside the plane.
cdef bint range_of_places(const Pool* t, const Bands* s, Py_ssize_t group, long long* low, long long* high) noexcept nogil:
    cdef long long place[ITEMS]
    cdef Py_ssize_t wide = 1, first = 0, n, i = 0, j
    cdef char* at = group_of(t, &t.arg[1], s, group, &wide)
    while first < s.pixels:
        n = min(s.pixels - first, pixels_at_once(wide))
        take_pixels(t, &t.arg[1], at, wide, first, n, <long long*> place)
        low[i] = high[i] = place[0]
        for j in range(1, n * wide):
            low[i] = min(low[i], place[j])
            high[i] = max(high[i], place[j])
        if low[i] < 0 or high[i] >= s.size:
            return True
        i += 1
        first += n
    return False

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
            for i in range(run):
                put_sums(_, row + i * x.step[4], x.step[t.channel], high + i * wide, low + i * wide, wide, False)
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

# A thread's memory for bands: sums or elements, and the places that windows reach.
cdef Py_ssize_t band_bytes(const Pool* t) noexcept nogil:
    cdef Bands s = bands_of(t)
    if t.even:
        return 2 * 8 * ring_room(&s) + sizeof(Extent) * stretches_of(s.pixels) + 64
    return 2 * 8 * BAND + 64 + 2 * 8 * ((s.pixels + pixels_at_once(s.wide) - 1) // pixels_at_once(s.wide))

# The largest ring that a band may need.
cdef inline Py_ssize_t ring_room(const Bands* s) noexcept nogil:
    cdef Py_ssize_t n = 64
    while n < s.size and n < s.band:
        n *= 2
    return n

# Bands of planes whose elements lie evenly: see pool_scatter.h.
cdef struct Scatterer:
    Bands bands
    Ring ring
    Scattering band
    Py_ssize_t plane
    int axis

# Returns whether a band is a whole plane.
cdef bint open_scatterer(Scatterer* s, const Pool* t, char* room, bint two) noexcept nogil:
    s.bands = bands_of(t)
    room = <char*> ((<size_t> room + 63) // 64 * 64)
    s.ring.past = t.streaming
    s.ring.high = <double*> room
    s.ring.low = s.ring.high + ring_room(&s.bands) if two else NULL
    s.ring.clean = 0
    s.band.extents = <Extent*> (s.ring.high + 2 * ring_room(&s.bands)) if s.bands.size > (RING if t.streaming else 2 * RING if two else 4 * RING) else NULL
    s.axis = t.channel if t.across else 4  # of elements that follow each other
    s.band.place_step = t.arg[1].step[s.axis]
    s.band.v_step = t.arg[0].step[s.axis]
    s.band.to_step = t.arg[2].step[s.axis]
    s.band.channels = interleaved(t)
    s.band.windows = s.bands.pixels
    s.plane = -1
    return s.bands.bands == 1

cdef inline char* even_plane(const Pool* t, const Planes* a, Py_ssize_t plane) noexcept nogil:
    return a.data + plane * a.step[1 - t.channel] if t.across else plane_of(a, plane)

# Returns whether it is the first of a plane.
cdef inline bint next_band(Scatterer* s, const Pool* t, Py_ssize_t unit) noexcept nogil:
    cdef Py_ssize_t plane = unit // s.bands.bands
    s.band.start = unit % s.bands.bands * s.bands.band
    s.band.length = min(s.bands.band, s.bands.size - s.band.start)
    if plane == s.plane:
        return False
    s.plane = plane
    s.band.v = even_plane(t, &t.arg[0], plane)
    s.band.place = even_plane(t, &t.arg[1], plane)
    s.band.to = even_plane(t, &t.arg[2], plane)
    return True

# These return whether a place lies outside its plane.
cdef bint scatter_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef Scatterer s
    cdef bint alone = open_scatterer(&s, t, room, storage is double)  # until windows turn out to share a maximum
    while unit < last:
        if next_band(&s, t, unit) and find_extents(&s.band, s.bands.size // s.band.channels):
            return True
        if not alone or not scatter_alone(_, &s.ring, &s.band):
            alone = False
            scatter_sums(_, &s.ring, &s.band)
        unit += 1
    return False

cdef bint land_planes(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef Scatterer s
    cdef Landed landed = LANDED
    open_scatterer(&s, t, room, storage is double)
    while unit < last:
        next_band(&s, t, unit)
        if landed != MET:
            landed = land_alone(_, &s.band)
        if landed == OUTSIDE or (landed == MET and land_sums(_, &s.ring, &s.band) == OUTSIDE):
            return True
        unit += 1
    return False

cdef bint move_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, moved* _) noexcept nogil:
    cdef Scatterer s
    open_scatterer(&s, t, room, False)
    while unit < last:
        if next_band(&s, t, unit) and not t.lands and find_extents(&s.band, s.bands.size // s.band.channels):
            return True
        if not t.lands:
            scatter_last(_, &s.ring, &s.band)
        elif land_last(_, &s.band) == OUTSIDE:
            return True
        unit += 1
    return False

cdef bint gradient_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, storage* _) noexcept nogil:
    cdef Bands s = bands_of(t)
    cdef double* high = <double*> ((<size_t> room + 63) // 64 * 64)
    cdef double* low = high + BAND
    cdef long long* least_place = <long long*> (low + BAND)
    cdef long long* most = least_place + (s.pixels + pixels_at_once(s.wide) - 1) // pixels_at_once(s.wide)
    cdef long long place[ITEMS]
    cdef double dy[ITEMS]
    cdef Py_ssize_t group, from_, length, wide = 1, first, n, i, j, known = -1
    cdef char* source
    cdef char* places
    while unit < last:
        group = unit // s.bands
        from_ = unit % s.bands * s.band
        length = min(s.band, s.size - from_)
        if known != group:
            if range_of_places(t, &s, group, least_place, most):
                return True
            known = group
        source = group_of(t, &t.arg[0], &s, group, &wide)
        places = group_of(t, &t.arg[1], &s, group, &wide)
        for j in range(length * wide):
            high[j] = 0
        if storage is double:
            for j in range(length * wide):
                low[j] = 0
        first = i = 0
        while first < s.pixels:
            n = min(s.pixels - first, pixels_at_once(wide))
            if least_place[i] < from_ + length and most[i] >= from_:
                take_pixels(t, &t.arg[1], places, wide, first, n, <long long*> place)
                take_pixels(t, &t.arg[0], source, wide, first, n, <double*> dy)
                add_to_places(_, high, low, <long long*> place, <double*> dy, n * wide, wide, from_, length)
            i += 1
            first += n
        put_band(t, &t.arg[2], group_of(t, &t.arg[2], &s, group, &wide), wide, from_, length, high, low, _)
        unit += 1
    return False

cdef bint moved_bands(const Pool* t, Py_ssize_t unit, Py_ssize_t last, char* room, moved* _) noexcept nogil:
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
        if known != group:
            if range_of_places(t, &s, group, least_place, most):
                return True
            known = group
        source = group_of(t, &t.arg[0], &s, group, &wide)
        places = group_of(t, &t.arg[1], &s, group, &wide)
        for j in range(length * wide):
            band[j] = 0
        first = i = 0
        while first < s.pixels:
            n = min(s.pixels - first, pixels_at_once(wide))
            if least_place[i] < from_ + length and most[i] >= from_:
                take_pixels(t, &t.arg[1], places, wide, first, n, <long long*> place)
                take_pixels(t, &t.arg[0], source, wide, first, n, <moved*> y)
                put_in_places(band, <long long*> place, <moved*> y, n * wide, wide, from_, length)
            i += 1
            first += n
        put_moved(t, &t.arg[2], group_of(t, &t.arg[2], &s, group, &wide), wide, from_, length, band)
        unit += 1
    return False
