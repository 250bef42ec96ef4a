# softmax, log_softmax and logsumexp: one fold over (m, l), then a map.  Their backwards: a sum, then a map.
#
# A row of up to a frame is read once: several such rows, as many as fill the scratch, go through each step together, and
# what happens once a row (the frame, 1 / l, the logarithm) happens to all of them in lanes.  Columns are already so.  Longer
# rows are folded frame by frame and then read again.

# ------------------------------------------------------------------------------------------------ the (m, l) state

cdef State[double] absorb(const storage* x, Py_ssize_t n, double scale, Py_ssize_t ahead) noexcept nogil:
    # The state of up to a frame.
    cdef State[double] s = state_of_row_max(x, top_of_tile(x, n), scale)
    if isfinite(s.m):
        s.l = exp_of_row(x, n, &s, scale, ahead)
    return s

cdef void softmax_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef State[double]* s = <State[double]*> room
    cdef State[double] frame
    cdef storage* x
    cdef Py_ssize_t n
    s[0] = empty_row()
    while j < end:
        n = min(end - j, frame_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        frame = absorb(<const storage*> x, n, t.scale, n if t.ahead and end - j >= 2 * n else 0)
        merge_rows(_, s, &frame, t.scale)
        j += n

cdef void softmax_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_rows(_, <State[double]*> a, <const State[double]*> b, t.scale)

# Where the elements of a row lie, for what is done once more to few rows: in a row of the task, or in a column.
cdef struct Source:
    const Task* task
    const Row* row
    const char* column
    Py_ssize_t stride
    int code

cdef storage* take_again(const Source* from_, Py_ssize_t j, Py_ssize_t n, storage* room, unsigned char* masks) noexcept nogil:
    if from_.row != NULL:
        return take(from_.task, from_.row, 0, j, n, room, take_mask(from_.task, from_.row, j, n, masks), -INFINITY)
    gather(room, from_.column + j * from_.stride, from_.stride, n, from_.code)
    return room

cdef State[double] without_top(const Source* from_, Py_ssize_t length, double top, double scale, storage* _) noexcept nogil:
    # The state of a row without its largest element.
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef State[double] s = empty_row(), frame
    cdef Py_ssize_t j = 0, n
    while j < length:
        n = min(length - j, frame_size(_))
        hide_top(<storage*> scratch, <const storage*> take_again(from_, j, n, <storage*> scratch, masks), n, top)
        frame = absorb(<const storage*> scratch, n, scale, 0)
        merge_rows(_, &s, &frame, scale)
        j += n
    return s

cdef double logsumexp_again(const Source* from_, Py_ssize_t length, storage* _) noexcept nogil:
    # The logsumexp of a row whose maximum and logarithm cancel: of floats in double, of doubles in long double.
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef double wide[SCRATCH_DOUBLES]
    cdef State[double] s = empty_row(), frame, rest
    cdef long double total = 0
    cdef Py_ssize_t j = 0, n
    while j < length:
        n = min(length - j, tile_size(_))
        as_doubles(wide, <const storage*> take_again(from_, j, n, <storage*> scratch, masks), n)
        if storage is double:
            total = add_exponentials(total, wide, n)
        else:
            frame = absorb(<const double*> wide, n, 1, 0)
            merge_rows(<const double*> NULL, &s, &frame, 1)
        j += n
    if storage is double:
        return log_in_long_double(total)
    rest = empty_row()
    return logsumexp_of_row(<const double*> NULL, &s, &rest)

cdef State[double] rest_of(const Source* from_, Py_ssize_t length, const State[double]* s, double scale, storage* _) noexcept nogil:
    # What log_of_sum needs beside a state: the state without the maximum, where that is a spike.
    if isfinite(s.m) and is_spike(sum_of_state(_, s, scale)):
        return without_top(from_, length, s.m, scale, _)
    return empty_row()

# ------------------------------------------------------------------------------------------------ rows of up to a frame

cdef enum After:
    TO_SOFTMAX, TO_LOG_SOFTMAX, TO_LOGSUMEXP

cdef void framed_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, int after, storage* _) noexcept nogil:
    cdef Kept[storage] room
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef Row row[BLOCK_ROWS]
    cdef storage* x[BLOCK_ROWS]
    cdef storage* y[BLOCK_ROWS]
    cdef Sum[double] sum[BLOCK_ROWS]
    cdef Streamed[storage] streamed
    cdef Source from_
    cdef State[Doubles[storage]] s, rest
    cdef State[double] one
    cdef Frame[storage] frame
    cdef Inverse[storage] inverse
    cdef LogFrame[storage] log
    cdef RowLog[storage] row_log
    cdef Doubles[storage] result
    cdef Lanes[storage] top
    cdef Py_ssize_t block = block_of_rows(_, t.n), i, count, ahead
    cdef bint spikes
    from_.task = t
    while first < last:
        count = min(block, last - first)
        for i in range(count):
            enter(t, first + i, &row[i])
            x[i] = take(t, &row[i], 0, 0, t.n, <storage*> scratch + i * t.n, take_mask(t, &row[i], 0, t.n, masks), -INFINITY)
        top_of_rows(x, count, t.n, &top)
        s = states_of_max(_, top, t.scale)
        frame = frames_of(_, &s, t.scale)
        ahead = 0
        if t.ahead and first + 2 * count <= last:
            ahead = <storage*> row_start(t, &t.arg[0], first + count) - x[0]
        exp_of_rows(x, count, t.n, &frame, t.scale, room.e if after == TO_SOFTMAX else NULL, ahead, sum)
        set_sums(_, &s, sum, count)
        if after == TO_SOFTMAX:
            inverse = inverses_of(_, &s)
            for i in range(count):
                y[i] = open_tile(t, &row[i], 1, 0, <storage*> scratch + i * t.n)
            scale_rows(y, x, room.e, count, t.n, &inverse, &streamed if t.streaming else NULL)
            if t.masked or not t.arg[1].direct:
                for i in range(count):
                    close_tile(t, &row[i], 1, 0, t.n, y[i], take_mask(t, &row[i], 0, t.n, masks), 0)
            first += count
            continue
        rest = empty_columns(_)
        spikes = any_spike(_, &s, t.scale)
        for i in range(count if spikes else 0):
            one = state_at(_, &s, i)
            from_.row = &row[i]
            set_state(_, &rest, i, rest_of(&from_, t.n, &one, t.scale, _))
        if after == TO_LOG_SOFTMAX:
            log = logs_of(_, &s, &rest, t.scale)
        else:
            result = logsumexps_of(_, &s, &rest)
        for i in range(count):
            if after == TO_LOGSUMEXP:
                from_.row = &row[i]
                one = state_at(_, &s, i)
                finish_logsumexp(t, &row[i], &from_, &one, number_at(_, &result, i), _)
                continue
            row_log = log_at(_, &log, i)
            y[i] = open_tile(t, &row[i], 1, 0, <storage*> scratch + i * t.n)
            log_softmax_row(y[i], <const storage*> x[i], t.n, &row_log, t.streaming)
            close_tile(t, &row[i], 1, 0, t.n, y[i], take_mask(t, &row[i], 0, t.n, masks), -INFINITY)
        first += count
    finish_line(&streamed)

cdef void finish_logsumexp(const Task* t, const Row* row, const Source* from_, const State[double]* s, double result, storage* _) noexcept nogil:
    if cancelled(s.m, result):
        result = logsumexp_again(from_, t.n, _)
    put_double(_, row.at[1], result)
    if t.nargs == 3:  # return_sign without weights: the sum is positive, or 0 where everything is -inf
        put_double(_, row.at[2], s.m if s.m != s.m else s.m > -INFINITY)

cdef void softmax_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    framed_rows(t, first, last, TO_SOFTMAX, _)

cdef void log_softmax_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    framed_rows(t, first, last, TO_LOG_SOFTMAX, _)

cdef void logsumexp_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    framed_rows(t, first, last, TO_LOGSUMEXP, _)

# ------------------------------------------------------------------------------------------------ longer rows

cdef void softmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef const State[double]* s = <const State[double]*> room
    cdef RowFrame[storage] frame = frame_of_row(_, s, t.scale)
    cdef RowInverse[storage] inverse = inverse_of_row(_, s)
    cdef storage* x
    cdef storage* y
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, frame_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        y = open_tile(t, row, 1, j, <storage*> scratch)
        if t.n == 1 and isfinite(s.m):
            fill_tile(y, n, 1)
        else:
            softmax_row(y, <const storage*> x, n, &frame, &inverse, t.streaming, <const storage*> x + n if t.ahead and end - j > 2 * n else NULL)
        close_tile(t, row, 1, j, n, y, mask, 0)
        j += n

cdef void log_softmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef const State[double]* s = <const State[double]*> room
    cdef Source from_
    cdef State[double] rest
    cdef RowLog[storage] frame
    cdef storage* x
    cdef storage* y
    cdef Py_ssize_t n
    from_.task = t
    from_.row = row
    rest = rest_of(&from_, t.n, s, t.scale, _)
    frame = log_of_row(_, s, &rest, t.scale)
    while j < end:
        n = min(end - j, frame_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        y = open_tile(t, row, 1, j, <storage*> scratch)
        log_softmax_row(y, <const storage*> x, n, &frame, t.streaming)
        close_tile(t, row, 1, j, n, y, mask, -INFINITY)
        j += n

cdef void logsumexp_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef const State[double]* s = <const State[double]*> room
    cdef Source from_
    cdef State[double] rest
    from_.task = t
    from_.row = row
    rest = rest_of(&from_, t.n, s, 1, _)
    finish_logsumexp(t, row, &from_, s, logsumexp_of_row(_, s, &rest), _)

# ------------------------------------------------------------------------------------------------ columns

cdef bint fold_columns(const Slab* slab, double scale, bint exponentials, State[Doubles[storage]]* total, storage* _) noexcept nogil:
    # The states of a slab.  True if slab.kept then holds its exponentials, or if not asked for those its elements.
    cdef State[Doubles[storage]] chunk[GROUPS]
    cdef State[Doubles[storage]] s
    cdef Frame[storage] frame
    cdef Lanes[storage] top[GROUPS]
    cdef Py_ssize_t L = lanes(_), groups = (slab.width + L - 1) // L, g, j = 0, rows
    cdef const storage* x
    cdef acc[storage]* kept = <acc[storage]*> slab.kept if slab.n <= frame_size(_) else NULL
    while j < slab.n:
        rows = min(slab.n - j, frame_size(_))
        x = <const storage*> (slab.at[0] + j * slab.stride[0])
        top_of_columns(x, slab.stride[0], rows, slab.width, top, kept)
        for g in range(groups):
            s = states_of_max(_, top[g], scale)
            frame = frames_of(_, &s, scale)
            if kept != NULL:
                exp_kept_columns(_, kept + g * L, groups * L, rows, &frame, scale, exponentials, &s.l)
            else:
                exp_columns(x + g * L, slab.stride[0], rows, slab.width - g * L, &frame, scale, <acc[storage]*> NULL, 0, &s.l)
            close_columns(_, &s)
            if j % chunk_size(_):
                merge_columns(_, &chunk[g], &s, scale)
            else:
                chunk[g] = s
        j += rows
        if j % chunk_size(_) == 0 or j == slab.n:
            for g in range(groups):
                if j > chunk_size(_):
                    merge_columns(_, &total[g], &chunk[g], scale)
                else:
                    total[g] = chunk[g]
    return kept != NULL

cdef void softmax_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef Frame[storage] frame[GROUPS]
    cdef Inverse[storage] inverse[GROUPS]
    cdef const storage* x = <const storage*> slab.at[0]
    cdef storage* y = <storage*> slab.at[1]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j
    cdef bint kept = fold_columns(slab, t.scale, True, s, _)
    for g in range(groups):
        frame[g] = frames_of(_, &s[g], t.scale)
        inverse[g] = inverses_of(_, &s[g])
    if kept:
        scale_columns(y, slab.stride[1], <const acc[storage]*> slab.kept, slab.n, slab.width, inverse, t.streaming)
        return
    for j in range(slab.n):
        for g in range(groups):
            store_some(y + g * L, softmax_of(load_some(x + g * L, slab.width - g * L, 0), &frame[g], &inverse[g], t.scale), slab.width - g * L)
        x = <const storage*> (<const char*> x + slab.stride[0])
        y = <storage*> (<char*> y + slab.stride[1])

cdef void rest_of_columns(const Slab* slab, double scale, const State[Doubles[storage]]* s, State[Doubles[storage]]* rest, storage* _) noexcept nogil:
    cdef Py_ssize_t L = lanes(_), g, i
    cdef State[double] one
    cdef Source from_
    from_.row = NULL
    from_.stride = slab.stride[0]
    from_.code = code_of_storage(_)
    for g in range((slab.width + L - 1) // L):
        rest[g] = empty_columns(_)
        if any_spike(_, &s[g], scale):
            for i in range(min(L, slab.width - g * L)):
                one = state_at(_, &s[g], i)
                from_.column = slab.at[0] + (g * L + i) * sizeof(storage)
                set_state(_, &rest[g], i, rest_of(&from_, slab.n, &one, scale, _))

cdef void log_softmax_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef State[Doubles[storage]] rest[GROUPS]
    cdef LogFrame[storage] frame[GROUPS]
    cdef const storage* x = <const storage*> slab.at[0]
    cdef const acc[storage]* kept = <const acc[storage]*> slab.kept
    cdef storage* y = <storage*> slab.at[1]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j
    cdef bint copied = fold_columns(slab, t.scale, False, s, _)
    cdef Lanes[storage] v
    rest_of_columns(slab, t.scale, s, rest, _)
    for g in range(groups):
        frame[g] = logs_of(_, &s[g], &rest[g], t.scale)
    for j in range(slab.n):
        for g in range(groups):
            v = load_kept(_, kept + (j * groups + g) * L) if copied else load_some(x + g * L, slab.width - g * L, 0)
            store_some(y + g * L, log_softmax_of(v, &frame[g], t.scale), slab.width - g * L)
        x = <const storage*> (<const char*> x + slab.stride[0])
        y = <storage*> (<char*> y + slab.stride[1])

cdef void logsumexp_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef State[Doubles[storage]] rest[GROUPS]
    cdef Doubles[storage] result
    cdef Source from_
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, i
    cdef double m
    fold_columns(slab, 1, False, s, _)
    rest_of_columns(slab, 1, s, rest, _)
    from_.row = NULL
    from_.stride = slab.stride[0]
    from_.code = code_of_storage(_)
    for g in range(groups):
        result = logsumexps_of(_, &s[g], &rest[g])
        if any_cancelled(_, &s[g], &result):
            for i in range(min(L, slab.width - g * L)):
                m = number_at(_, &s[g].m, i)
                if cancelled(m, number_at(_, &result, i)):
                    from_.column = slab.at[0] + (g * L + i) * sizeof(storage)
                    set_number(_, &result, i, logsumexp_again(&from_, slab.n, _))
        store_some(<storage*> slab.at[1] + g * L, lanes_of_doubles(_, &result), slab.width - g * L)

# ------------------------------------------------------------------------------------------------ backwards

cdef void softmax_backward_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Sum[double]* s = <Sum[double]*> room
    cdef const storage* dy
    cdef const storage* y
    cdef Py_ssize_t n
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch[0], mask, 0)
        y = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        add_row(_, s, dot_row(dy, y, n, t.n if t.ahead else 0))
        j += n

cdef void sum_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_sums(_, <Sum[double]*> a, <const Sum[double]*> b)

cdef void softmax_backward_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef storage* dy
    cdef storage* y
    cdef storage* dx
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch[0], mask, 0)
        y = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        dx = open_tile(t, row, 2, j, <storage*> scratch[0])
        softmax_backward_tile(dx, <const storage*> dy, <const storage*> y, n, <const Sum[double]*> room, t.scale, t.streaming)
        close_tile(t, row, 2, j, n, dx, mask, 0)
        j += n

cdef void softmax_backward_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef Sum[Doubles[storage]] total[GROUPS]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j, w
    cdef const storage* dy = <const storage*> slab.at[0]
    cdef const storage* y = <const storage*> slab.at[1]
    cdef storage* dx = <storage*> slab.at[2]
    cdef Lanes[storage] dot[GROUPS]
    for g in range(groups):
        sum_columns(dy + g * L, slab.stride[0], y + g * L, slab.stride[1], slab.n, slab.width - g * L, &total[g])
        dot[g] = lanes_of_sum_columns(_, &total[g])
    for j in range(slab.n):
        for g in range(groups):
            w = slab.width - g * L
            store_some(dx + g * L, softmax_gradient(load_some(dy + g * L, w, 0), load_some(y + g * L, w, 0), dot[g], splat(_, t.scale)), w)
        dy = <const storage*> (<const char*> dy + slab.stride[0])
        y = <const storage*> (<const char*> y + slab.stride[1])
        dx = <storage*> (<char*> dx + slab.stride[2])

cdef void sum_columns(const storage* a, Py_ssize_t a_stride, const storage* b, Py_ssize_t b_stride, Py_ssize_t n, Py_ssize_t width, Sum[Doubles[storage]]* total) noexcept nogil:
    # The sum of a * b, or of a alone, down columns: tiles into chunks, chunks into the total.
    cdef Sum[Doubles[storage]] chunk = empty_sum_columns(a)
    cdef Doubles[storage] tile
    cdef Py_ssize_t j = 0, rows
    total[0] = empty_sum_columns(a)
    while j < n:
        rows = min(n - j, tile_size(a))
        if b:
            dot_columns_of(a, a_stride, b, b_stride, rows, width, &tile)
            b = <const storage*> (<const char*> b + rows * b_stride)
        else:
            sum_columns_of(a, a_stride, rows, width, &tile)
        a = <const storage*> (<const char*> a + rows * a_stride)
        add_columns(a, &chunk, &tile)
        j += rows
        if j % chunk_size(a) == 0 or j == n:
            merge_sum_columns(a, total, &chunk)
            chunk = empty_sum_columns(a)

cdef void log_softmax_backward_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Sum[double]* s = <Sum[double]*> room
    cdef const storage* dy
    cdef Py_ssize_t n
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch, mask, 0)
        add_row(_, s, sum_row(dy, n, t.n if t.ahead else 0))
        j += n

cdef void log_softmax_backward_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef storage* dy
    cdef storage* y
    cdef storage* dx
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch[0], mask, 0)
        y = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        dx = open_tile(t, row, 2, j, <storage*> scratch[0])
        log_softmax_backward_tile(dx, <const storage*> dy, <const storage*> y, n, <const Sum[double]*> room, t.scale, t.streaming)
        close_tile(t, row, 2, j, n, dx, mask, 0)
        j += n

cdef void log_softmax_backward_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef Sum[Doubles[storage]] total[GROUPS]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j, w
    cdef const storage* dy = <const storage*> slab.at[0]
    cdef const storage* y = <const storage*> slab.at[1]
    cdef storage* dx = <storage*> slab.at[2]
    cdef Lanes[storage] whole[GROUPS]
    for g in range(groups):
        sum_columns(dy + g * L, slab.stride[0], <const storage*> NULL, 0, slab.n, slab.width - g * L, &total[g])
        whole[g] = lanes_of_sum_columns(_, &total[g])
    for j in range(slab.n):
        for g in range(groups):
            w = slab.width - g * L
            store_some(dx + g * L, log_softmax_gradient(load_some(dy + g * L, w, 0), load_some(y + g * L, w, 0), whole[g], splat(_, t.scale)), w)
        dy = <const storage*> (<const char*> dy + slab.stride[0])
        y = <const storage*> (<const char*> y + slab.stride[1])
        dx = <storage*> (<char*> dx + slab.stride[2])

# ------------------------------------------------------------------------------------------------ logsumexp with weights

# With weights b: terms of either sign.  arg: x, b, values and perhaps signs.
cdef struct Weighted:
    double m, c, l, low  # sum of b exp(x) = exp(m) (c + l): c over the elements equal to m

cdef void weighted_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Weighted* s = <Weighted*> room
    cdef storage* x
    cdef storage* b
    cdef double v, w
    cdef Sum[double] total
    cdef Py_ssize_t n, i, start = j
    s.m = -INFINITY
    s.c = s.l = s.low = total.high = total.low = 0
    while j < end:  # the maximum first: over what has a weight
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch[0], mask, -INFINITY)
        b = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        for i in range(n):
            w = as_number(b[i])
            v = as_number(x[i])
            if w != 0 and (v > s.m or v != v):
                s.m = v
                if v != v:
                    return
            if w != w:
                s.m = w
                return
        j += n
    j = start
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch[0], mask, -INFINITY)
        b = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        for i in range(n):
            w = as_number(b[i])
            v = as_number(x[i])
            if w == 0:
                continue
            if v == s.m:
                s.c += w
            elif isfinite(s.m):
                add_exact(&total, w * exp(v - s.m))
        j += n
    s.l = total.high
    s.low = total.low

cdef void weighted_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    cdef Weighted* s = <Weighted*> a
    cdef Weighted other = (<const Weighted*> b)[0]
    cdef Weighted larger
    cdef double factor
    if s.m != s.m:
        return
    if other.m > s.m or other.m != other.m:
        larger = other
        other = s[0]
        s[0] = larger
    if other.m == s.m:
        s.c += other.c
        s.l += other.l
        s.low += other.low
    elif isfinite(s.m):
        factor = exp(other.m - s.m)
        s.l += (other.c + other.l) * factor
        s.low += other.low * factor

cdef void weighted_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef const Weighted* s = <const Weighted*> room
    cdef double l = s.l + s.low, value = s.c + l, result = s.m
    if isfinite(s.m):
        result = s.m + (log1p(l) if s.c == 1 else log(fabs(value)))
    if s.m != s.m:
        value = s.m
    elif s.m == -INFINITY:
        value = 0
    if t.nargs == 3 and value < 0:
        result = NAN
    put_double(_, row.at[2], result)
    if t.nargs == 4:
        put_double(_, row.at[3], value if value != value else (value > 0) - (value < 0))

cdef void logsumexp_backward_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    # arg: dy, x, y, perhaps b, dx
    cdef char scratch[4][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef storage* at[4]
    cdef storage* dx
    cdef Py_ssize_t n
    cdef int i
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        at[3] = NULL
        for i in range(t.ninputs):
            at[i] = take(t, row, i, j, n, <storage*> scratch[i], mask, 0)
        dx = open_tile(t, row, t.ninputs, j, <storage*> scratch[0])
        logsumexp_backward_tile(dx, <const storage*> at[0], <const storage*> at[1], <const storage*> at[2], <const storage*> at[3], n, t.streaming)
        close_tile(t, row, t.ninputs, j, n, dx, mask, 0)
        j += n
