# softmax, log_softmax and logsumexp: one fold over (m, l), then a map.  Their backwards: a sum, then a map.
#
# Rows of up to a frame go through each step in blocks (rows.h), and
# what happens once a row (the frame, 1 / l, the logarithm) happens to all of them in lanes.  Columns are already so.  Longer
# rows are folded frame by frame and then read again.

# ------------------------------------------------------------------------------------------------ the (m, l) state

cdef State[double] absorb(const storage* x, Py_ssize_t n, double scale) noexcept nogil:
    # The state of up to a frame.
    cdef double top = top_of_tile(x, n)
    return absorb_met(x, n, scale, &top, 0)

cdef State[double] absorb_met(const storage* x, Py_ssize_t n, double scale, double* top, Py_ssize_t next_n) noexcept nogil:
    # The same where the maximum is known; it becomes that of the `next_n` elements after it.
    cdef State[double] s = state_of_row_max(x, top[0], scale)
    top[0] = exp_and_top(x, n, &s, scale, x + n, next_n)
    return s

cdef void softmax_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef State[double]* s = <State[double]*> room
    cdef State[double] frame
    cdef storage* x
    cdef double top = 0
    cdef Py_ssize_t n, met = 0  # elements whose maximum is known
    cdef bint whole = t.arg[0].direct and not t.masked
    s[0] = empty_row()
    while j < end:
        n = min(end - j, frame_size(_))
        x = take(t, row, 0, j, n, <storage*> scratch, take_mask(t, row, j, n, masks), -INFINITY)
        if met == 0:
            top = top_of_tile(<const storage*> x, n)
        met = min(t.n - j - n, frame_size(_)) if whole else 0  # beyond `end` too: who goes on there finds it in the cache
        frame = absorb_met(<const storage*> x, n, t.scale, &top, met)
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

cdef double rest_again(const Source* from_, Py_ssize_t length, double top, double scale, storage* _) noexcept nogil:
    # What the exponentials of a row without its maximum come to, beside that of the maximum.
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef State[double] s = empty_row(), frame
    cdef Py_ssize_t j = 0, n
    while j < length:
        n = min(length - j, frame_size(_))
        hide_top(<storage*> scratch, <const storage*> take_again(from_, j, n, <storage*> scratch, masks), n, top)
        frame = absorb(<const storage*> scratch, n, scale)
        merge_rows(_, &s, &frame, scale)
        j += n
    return rest_from_row(_, &s, top, scale)

cdef double logsumexp_again(const Source* from_, Py_ssize_t length, storage* _) noexcept nogil:
    # The logsumexp of a row whose maximum and logarithm cancel: of doubles in long double, of floats in double unless even
    # that leaves too little.
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef double wide[SCRATCH_DOUBLES]
    cdef State[double] s = empty_row(), frame
    cdef Mass[double] mass
    cdef double result = 0
    cdef LongSum total
    cdef Py_ssize_t j = 0, n
    total.high = total.low = 0
    if storage is not double:
        while j < length:
            n = min(length - j, tile_size(_))
            as_doubles(wide, <const storage*> take_again(from_, j, n, <storage*> scratch, masks), n)
            frame = absorb(<const double*> wide, n, 1)
            merge_rows(<const double*> NULL, &s, &frame, 1)
            j += n
        mass = mass_of_row(<const double*> NULL, &s, 1)
        result = logsumexp_of_row(<const double*> NULL, &s, &mass)
        if fabs(result) > 1e-9:
            return result
    j = 0
    while j < length:
        n = min(length - j, tile_size(_))
        as_doubles(wide, <const storage*> take_again(from_, j, n, <storage*> scratch, masks), n)
        add_exponentials(&total, wide, n)
        j += n
    return log_of_long(&total)

cdef Mass[double] mass_of(const Source* from_, Py_ssize_t length, const State[double]* s, double scale, storage* _) noexcept nogil:
    cdef Mass[double] mass = mass_of_row(_, s, scale)
    if isfinite(s.m) and is_thin(_, &mass, length):
        mass.rest = rest_again(from_, length, s.m, scale, _)
        mass.rest_low = 0
    return mass

# ------------------------------------------------------------------------------------------------ rows of up to a frame

cdef bint framed_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, int after, storage* _) noexcept nogil:
    # Three blocks at a time, each a step behind the one before it: see rows.h.
    cdef Block[storage] room[3]
    cdef Block[storage]* next
    cdef Block[storage]* now = NULL
    cdef Block[storage]* done = NULL
    cdef Streamed[storage] streamed
    cdef bint writes = after != TO_LOGSUMEXP
    cdef bint gathers = t.masked or not t.arg[0].direct, scatters = writes and (t.masked or not t.arg[t.nargs - 1].direct)
    cdef Py_ssize_t block = block_of_rows(_, t.n, gathers or scatters or keeps_exponentials(after)), ahead
    cdef int b = 0
    while first < last or now != NULL or done != NULL:
        next = NULL
        ahead = 0
        if first < last:
            next = &room[b]
            first = take_rows(t, next, first, last, block)
            if next.rows == 0:
                next = NULL
        if next != NULL:
            bring_rows(t, next, gathers, writes)
            if t.ahead and first + next.rows <= last:
                ahead = <storage*> row_start(t, &t.arg[0], first) - next.x[0]
        advance(after, next, now, done, t.n, t.scale, ahead, &streamed if t.streaming else NULL)
        if done != NULL and after == TO_GRADIENT:
            put_own(done, &streamed)
        if done != NULL and scatters:
            take_rows_away(t, done, 0 if keeps_exponentials(after) else -INFINITY)
        if now != NULL:
            finish_block(t, now, after, _)
        if next != NULL:
            frame_block(next, t.scale)
        done = now
        now = next
        b = (b + 1) % 3
    finish_line(&streamed)
    return True

# The next rows that a block has, all but those a loss ignores; returns the row after them.
cdef Py_ssize_t take_rows(const Task* t, Block[storage]* block, Py_ssize_t first, Py_ssize_t last, Py_ssize_t most) noexcept nogil:
    block.rows = 0
    while first < last and block.rows < most:
        if t.loss == NULL or is_kept(t, first, <storage*> NULL):
            block.row[block.rows] = first
            block.rows += 1
        first += 1
    return first

cdef void bring_rows(const Task* t, Block[storage]* block, bint gathers, bint writes) noexcept nogil:
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef Row row
    cdef Py_ssize_t i, r
    for i in range(block.rows):
        r = block.row[i]
        if gathers:
            enter(t, r, &row)
            block.x[i] = take(t, &row, 0, 0, t.n, block.scratch + i * t.n, take_mask(t, &row, 0, t.n, masks), -INFINITY)
        else:
            block.x[i] = <storage*> row_start(t, &t.arg[0], r)
        if writes:
            block.y[i] = <storage*> row_start(t, &t.arg[t.nargs - 1], r) if t.arg[t.nargs - 1].direct else block.scratch + i * t.n

cdef void take_rows_away(const Task* t, const Block[storage]* block, double fill) noexcept nogil:
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef Row row
    cdef Py_ssize_t i
    for i in range(block.rows):
        enter(t, block.row[i], &row)
        close_tile(t, &row, t.nargs - 1, 0, t.n, block.y[i], take_mask(t, &row, 0, t.n, masks), fill)

cdef void finish_block(const Task* t, Block[storage]* block, int after, storage* _) noexcept nogil:
    cdef Mass[Doubles[storage]] mass
    cdef Mass[double] one
    cdef Doubles[storage] result
    cdef Source from_
    cdef Row row
    cdef Py_ssize_t i
    cdef double m
    if after == TO_SOFTMAX:
        block.inverse = inverses_of(_, &block.s)
        return
    from_.task = t
    from_.row = &row
    mass = masses_of(_, &block.s, t.scale)
    if any_thin(_, &mass, t.n):
        for i in range(block.rows):
            one.sum = number_at(_, &mass.sum, i)
            one.rest = number_at(_, &mass.rest, i)
            if is_thin(_, &one, t.n):
                enter(t, block.row[i], &row)
                set_number(_, &mass.rest, i, rest_again(&from_, t.n, number_at(_, &block.s.m, i), t.scale, _))
                set_number(_, &mass.rest_low, i, 0)
    if t.loss != NULL:
        finish_losses(t, block, &mass, _)
        return
    if after == TO_LOG_SOFTMAX:
        block.log = logs_of(_, &block.s, &mass, t.scale)
        return
    result = logsumexps_of(_, &block.s, &mass)
    if t.nargs == 3 or any_cancelled(_, &block.s, &result):
        for i in range(block.rows):
            m = number_at(_, &block.s.m, i)
            enter(t, block.row[i], &row)
            finish_logsumexp(t, &row, &from_, m, number_at(_, &result, i), _)
    else:
        for i in range(block.rows):
            put_double(_, row_start(t, &t.arg[1], block.row[i]), number_at(_, &result, i))

cdef void finish_logsumexp(const Task* t, const Row* row, const Source* from_, double m, double result, storage* _) noexcept nogil:
    if cancelled(_, m, result):
        result = logsumexp_again(from_, t.n, _)
    put_double(_, row.at[1], result)
    if t.nargs == 3:  # return_sign without weights: the sum is positive, or 0 where everything is -inf
        put_double(_, row.at[2], m if m != m else m > -INFINITY)

cdef bint softmax_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    return framed_rows(t, first, last, TO_SOFTMAX, _) if t.n <= frame_size(_) else walk_rows(t, first, last, TO_SOFTMAX, _)

cdef bint log_softmax_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    return framed_rows(t, first, last, TO_LOG_SOFTMAX, _) if t.n <= frame_size(_) else walk_rows(t, first, last, TO_LOG_SOFTMAX, _)

cdef bint logsumexp_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    return framed_rows(t, first, last, TO_LOGSUMEXP, _)

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

# The logarithm is found once, before the first element is written: finding it may take the row again, which y may be written over.
cdef struct Logarithm:
    State[double] s
    double log

cdef void log_softmax_finish(const Task* t, const Row* row, Room* room, storage* _) noexcept nogil:
    cdef Logarithm* r = <Logarithm*> room
    cdef Source from_
    cdef Mass[double] mass
    from_.task = t
    from_.row = row
    mass = mass_of(&from_, t.n, &r.s, t.scale, _)
    r.log = log_of_mass_of(_, &mass)

cdef void log_softmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[FRAME_SCRATCH]
    cdef unsigned char masks[FRAME_SCRATCH]
    cdef unsigned char* mask
    cdef const Logarithm* r = <const Logarithm*> room
    cdef LogFrame[storage] frame = log_of_row(_, r.s.m, r.log, t.scale)
    cdef Streamed[storage] streamed
    cdef storage* x
    cdef storage* y
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, frame_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        y = open_tile(t, row, 1, j, <storage*> scratch)
        log_softmax_row(y, <const storage*> x, n, &frame, t.scale, &streamed if t.streaming else NULL)
        close_tile(t, row, 1, j, n, y, mask, -INFINITY)
        j += n
    finish_line(&streamed)

cdef void logsumexp_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef const State[double]* s = <const State[double]*> room
    cdef Source from_
    cdef Mass[double] mass
    from_.task = t
    from_.row = row
    mass = mass_of(&from_, t.n, s, 1, _)
    finish_logsumexp(t, row, &from_, s.m, logsumexp_of_row(_, s, &mass), _)

# Rows that are walked: see walk.h.

# The longest row of these ops that goes by `rows`.
cdef Py_ssize_t longest_walk(const Task* t, storage* _) noexcept nogil:
    return most_kept(_) if t.scale == 1 and not t.masked and t.arg[0].direct and t.arg[1].direct else frame_size(_)

# The first row from r on that is not ignored by a loss.
cdef Py_ssize_t kept_row(const Task* t, Py_ssize_t r, Py_ssize_t last, Row* row, storage* _) noexcept nogil:
    while r < last and t.loss != NULL and not is_kept(t, r, _):
        r += 1
    if r < last:
        enter(t, r, row)
    return r

# False where there is no memory for it: then nothing was done.
cdef bint walk_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, int after, storage* _) noexcept nogil:
    cdef Walk[storage] walk
    cdef Row rows[2]
    cdef Row* row
    cdef Row* next
    cdef Room room
    cdef State[double]* s = <State[double]*> &room  # each of these rooms begins with it
    cdef State[double] chunk, frame
    cdef const storage* x
    cdef const storage* ahead
    cdef Py_ssize_t i, following, j, n, next_n
    cdef int b = 0
    cdef double top = 0
    cdef char* memory = NULL
    if keeps_exponentials(after):
        if last - first < 2:  # for one row it would be as large as the input
            return False
        memory = <char*> malloc(t.n * sizeof(acc[storage]) + 128)
        if memory == NULL:
            return False
    begin_walk(&walk, after, <acc[storage]*> (<char*> NULL + (<size_t> memory + 63) // 64 * 64), t.n, t.streaming)
    i = kept_row(t, first, last, &rows[0], _)
    if i < last:
        top = top_of_tile(<const storage*> rows[0].at[0], min(t.n, frame_size(_)))
    while i < last:
        row = &rows[b]
        next = &rows[1 - b]
        following = kept_row(t, i + 1, last, next, _)
        x = <const storage*> row.at[0]
        s[0] = chunk = empty_row()
        j = 0
        while j < t.n:
            n = min(t.n - j, frame_size(_))
            ahead = x + j + n
            next_n = min(t.n - j - n, frame_size(_))
            if next_n == 0:
                ahead = <const storage*> next.at[0] if following < last else NULL
                next_n = min(t.n, frame_size(_))
            frame = state_of_row_max(_, top, 1)
            top = walk_frame(&walk, x + j, j, n, &frame, ahead, next_n)
            merge_rows(_, &chunk, &frame, 1)
            j += n
            if j % chunk_size(_) == 0 or j == t.n:
                merge_rows(_, s, &chunk, 1)
                chunk = empty_row()
        end_written(&walk)
        turn_row(t, &walk, row, &room, after, _)
        i = following
        b = 1 - b
    write_last(&walk)
    free(memory)
    return True

# A row whose state is known is written while the next is walked, or else at once.
cdef void turn_row(const Task* t, Walk[storage]* walk, const Row* row, Room* room, int after, storage* _) noexcept nogil:
    cdef const storage* x = <const storage*> row.at[0]
    cdef storage* y
    if after == TO_GRADIENT or after == TO_LOGSUMEXP:
        loss_finish(t, row, room, _)
        if after == TO_LOGSUMEXP:
            return
        y = <storage*> row.at[t.loss.gradient]
        if not turn_to_gradient(walk, y, x, <LossRow*> room, t.loss, label_of(t, row)):
            loss_map(t, row, 0, t.n, room, _)
        return
    y = <storage*> row.at[1]
    if after == TO_LOG_SOFTMAX:
        log_softmax_finish(t, row, room, _)
        turn_to_log_softmax(walk, y, x, (<Logarithm*> room).s.m, (<Logarithm*> room).log)
    elif not turn_to_softmax(walk, y, <State[double]*> room):
        softmax_map(t, row, 0, t.n, room, _)

# ------------------------------------------------------------------------------------------------ columns

cdef void fold_columns(const Slab* slab, double scale, const Lanes[columned]* hidden, State[Doubles[columned]]* total, columned* _) noexcept nogil:
    # The states of a slab without the hidden elements, if any.
    cdef State[Doubles[columned]] chunk[WIDE]
    cdef State[Doubles[columned]] frames[WIDE]
    cdef State[Doubles[columned]]* made
    cdef Frame[columned] frame[WIDE]
    cdef Sum[Doubles[columned]] sums[WIDE]
    cdef Lanes[columned] top[WIDE]
    cdef Py_ssize_t L = lanes(_), groups = (slab.width + L - 1) // L, g, j = 0, rows
    cdef const columned* x
    while j < slab.n:
        rows = min(slab.n - j, frame_size(_))
        x = <const columned*> (slab.at[0] + j * slab.stride[0])
        made = total if j == 0 else &chunk[0] if j % chunk_size(_) == 0 else &frames[0]  # the first of a total or a chunk is there at once
        top_of_columns(x, slab.stride[0], rows, slab.width, top, hidden)
        for g in range(groups):
            made[g] = states_of_max(_, top[g], scale)
            frame[g] = frames_of(_, &made[g], scale)
        exp_columns(x, slab.stride[0], rows, slab.width, frame, scale, hidden, sums)
        for g in range(groups):
            made[g].l = sums[g]
            close_columns(_, &made[g])
            if made == &frames[0]:
                merge_columns(_, &total[g] if j < chunk_size(_) else &chunk[g], &frames[g], scale)
        j += rows
        if j > chunk_size(_) and (j % chunk_size(_) == 0 or j == slab.n):
            for g in range(groups):
                merge_columns(_, &total[g], &chunk[g], scale)

cdef void softmax_columns(const Task* t, const Slab* slab, columned* _) noexcept nogil:
    cdef State[Doubles[columned]] s[WIDE]
    cdef Frame[columned] frame[WIDE]
    cdef Inverse[columned] inverse[WIDE]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L
    fold_columns(slab, t.scale, <const Lanes[columned]*> NULL, s, _)
    for g in range(groups):
        inverse[g] = inverses_of(_, &s[g])
        frame[g] = frames_of(_, &s[g], t.scale)
    softmax_of_columns(<columned*> slab.at[1], slab.stride[1], <const columned*> slab.at[0], slab.stride[0], slab.n, slab.width, frame, inverse, t.scale, t.streaming)

cdef void masses_of_columns(const Slab* slab, double scale, const State[Doubles[columned]]* s, Mass[Doubles[columned]]* mass, columned* _) noexcept nogil:
    cdef State[Doubles[columned]] rest[WIDE]
    cdef Lanes[columned] top[WIDE]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L
    cdef bint some = False
    for g in range(groups):
        mass[g] = masses_of(_, &s[g], scale)
        some = some or any_thin(_, &mass[g], slab.n)
        top[g] = lanes_of_doubles(_, &s[g].m)
    if some:
        fold_columns(slab, scale, <const Lanes[columned]*> top, rest, _)
        for g in range(groups):
            set_thin(_, &mass[g], slab.n, &rest[g], &s[g], scale)

cdef void log_softmax_columns(const Task* t, const Slab* slab, columned* _) noexcept nogil:
    cdef State[Doubles[columned]] s[WIDE]
    cdef Mass[Doubles[columned]] mass[WIDE]
    cdef LogFrame[columned] frame[WIDE]
    cdef columned* y = <columned*> slab.at[1]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L
    fold_columns(slab, t.scale, <const Lanes[columned]*> NULL, s, _)
    masses_of_columns(slab, t.scale, s, mass, _)
    for g in range(groups):
        frame[g] = logs_of(_, &s[g], &mass[g], t.scale)
    log_softmax_of_columns(y, slab.stride[1], <const columned*> slab.at[0], slab.stride[0], slab.n, slab.width, frame, t.scale, t.streaming)

cdef void logsumexp_columns(const Task* t, const Slab* slab, columned* _) noexcept nogil:
    cdef State[Doubles[columned]] s[WIDE]
    fold_columns(slab, 1, <const Lanes[columned]*> NULL, s, _)
    finish_logsumexp_columns(slab, s, _)

cdef void finish_logsumexp_columns(const Slab* slab, const State[Doubles[columned]]* s, columned* _) noexcept nogil:
    cdef Mass[Doubles[columned]] mass[WIDE]
    cdef Doubles[columned] result
    cdef Source from_
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, i
    cdef double m
    masses_of_columns(slab, 1, s, mass, _)
    from_.row = NULL
    from_.stride = slab.stride[0]
    from_.code = code_of_storage(_)
    for g in range(groups):
        result = logsumexps_of(_, &s[g], &mass[g])
        if any_cancelled(_, &s[g], &result):
            for i in range(min(L, slab.width - g * L)):
                m = number_at(_, &s[g].m, i)
                if cancelled(_, m, number_at(_, &result, i)):
                    from_.column = slab.at[0] + (g * L + i) * sizeof(columned)
                    if columned is widened:
                        set_number(_, &result, i, logsumexp_again(&from_, slab.n, <float*> NULL))
                    else:
                        set_number(_, &result, i, logsumexp_again(&from_, slab.n, _))
        store_some(<columned*> slab.at[1] + g * L, lanes_of_doubles(_, &result), slab.width - g * L)

# ------------------------------------------------------------------------------------------------ slabs of columns of up to a frame

cdef bint framed_columns(const Slabs* s, int after, columned* _) noexcept nogil:
    # Three slabs at a time, each a step behind the one before it: see columns.h.  False where there is no memory for it.
    cdef Slab slabs[3]
    cdef Slab following
    cdef Stripe[columned] stripes[3]
    cdef Stripe[columned]* next
    cdef Stripe[columned]* now = NULL
    cdef Stripe[columned]* done = NULL
    cdef Py_ssize_t unit = s.first, step = s.wide // lanes(_), bytes = s.task.n * step * 64
    cdef int b = 0, rooms = 1 if after == TO_LOGSUMEXP else 2
    cdef bint turned = s.leave != NULL
    cdef void* memory = NULL if turned else malloc(rooms * bytes + 64)
    cdef char* kept = <char*> ((<size_t> memory + 63) // 64 * 64)
    if memory == NULL and not turned:
        return False
    while unit < s.last or now != NULL or done != NULL:
        next = NULL
        if unit < s.last:
            next = &stripes[b]
            slabs[b].unit = unit
            s.enter(s, &slabs[b], NULL)
            open_stripe(next, &slabs[b], slabs[b].at[0] if turned else kept + unit % rooms * bytes)
            unit += 1
            following = slabs[b]
            if unit < s.last and not turned:
                following.unit = unit
                s.enter(s, &following, NULL)
            next.following = <columned*> following.at[0]
        advance_columns(after, next, now, done, s.task.n, step, s.task.scale, s.task.streaming)
        if done != NULL and turned:
            s.leave(s, &slabs[(b + 1) % 3], NULL)
        done = now
        if now != NULL:
            finish_stripe(s.task, now, &slabs[(b + 2) % 3], after)
            if after == TO_LOGSUMEXP:
                done = NULL
                if turned:
                    s.leave(s, &slabs[(b + 2) % 3], NULL)
        now = next
        b = (b + 1) % 3
    free(memory)
    return True

cdef inline void open_stripe(Stripe[columned]* b, const Slab* slab, char* kept) noexcept nogil:
    b.x = <columned*> slab.at[0]
    b.y = <columned*> slab.at[1]
    b.stride[0] = slab.stride[0]
    b.stride[1] = slab.stride[1]
    b.width = slab.width
    b.groups = (slab.width + lanes(b.x) - 1) // lanes(b.x)
    keep_at(b, kept)

cdef void finish_stripe(const Task* t, Stripe[columned]* b, const Slab* slab, int after) noexcept nogil:
    cdef Mass[Doubles[columned]] mass[GROUPS]
    cdef Py_ssize_t g
    if after == TO_LOGSUMEXP:
        finish_logsumexp_columns(slab, b.s, b.x)
        return
    if after == TO_LOG_SOFTMAX:
        masses_of_columns(slab, t.scale, b.s, mass, b.x)
    for g in range(b.groups):
        if after == TO_SOFTMAX:
            b.inverse[g] = inverses_of(b.x, &b.s[g])
        else:
            b.log[g] = logs_of(b.x, &b.s[g], &mass[g], t.scale)

cdef bint softmax_slabs(const Slabs* s, columned* _) noexcept nogil:
    return framed_columns(s, TO_SOFTMAX, _)

cdef bint log_softmax_slabs(const Slabs* s, columned* _) noexcept nogil:
    return framed_columns(s, TO_LOG_SOFTMAX, _)

cdef bint logsumexp_slabs(const Slabs* s, columned* _) noexcept nogil:
    return framed_columns(s, TO_LOGSUMEXP, _)

# ------------------------------------------------------------------------------------------------ backwards

# arg: dy, y, dx; t.log says whose backward it is.

cdef void gradient_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
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
        y = dy if t.log else take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        add_row(_, s, total_of_tile(dy, y, n, t.log))
        j += n

cdef void sum_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    merge_sums(_, <Sum[double]*> a, <const Sum[double]*> b)

cdef void gradient_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Streamed[storage] streamed
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
        gradient_row(t.log, dx, <const storage*> dy, <const storage*> y, n, <const Sum[double]*> room, t.scale, &streamed if t.streaming else NULL)
        close_tile(t, row, 2, j, n, dx, mask, 0)
        j += n
    finish_line(&streamed)

cdef bint gradient_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    # Plain rows, unmasked and of up to a chunk.
    cdef Streamed[storage] streamed
    cdef Row row
    cdef Py_ssize_t r
    for r in range(first, last):
        if r == first:
            enter(t, r, &row)
        else:
            enter_next(t, r, &row)
        gradient_of_row(t.log, <storage*> row.at[2], <const storage*> row.at[0], <const storage*> row.at[1], t.n, t.scale, &streamed if t.streaming else NULL)
    finish_line(&streamed)
    return True

cdef void gradient_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef Sum[Doubles[storage]] total[SUMS]
    cdef Gradient[storage] g[SUMS]
    cdef Py_ssize_t i, groups = (slab.width + lanes(_) - 1) // lanes(_)
    cdef const storage* dy = <const storage*> slab.at[0]
    cdef const storage* y = <const storage*> slab.at[1]
    sum_columns(dy, slab.stride[0], <const storage*> NULL if t.log else y, slab.stride[1], slab.n, slab.width, total)
    for i in range(groups):
        g[i] = gradient_of(lanes_of_sum_columns(_, &total[i]), t.scale)
    gradient_columns_of(t.log, <storage*> slab.at[2], slab.stride[2], dy, slab.stride[0], y, slab.stride[1], slab.n, slab.width, g, t.streaming)

cdef void sum_columns(const storage* a, Py_ssize_t a_stride, const storage* b, Py_ssize_t b_stride, Py_ssize_t n, Py_ssize_t width, Sum[Doubles[storage]]* total) noexcept nogil:
    # The sums of a * b, or of a alone, down columns: tiles into chunks, chunks into the total.
    cdef Sum[Doubles[storage]] chunk[SUMS]
    cdef Doubles[storage] tile[SUMS]
    cdef Py_ssize_t j = 0, rows, i, groups = (width + lanes(a) - 1) // lanes(a)
    for i in range(groups):
        total[i] = chunk[i] = empty_sum_columns(a)
    while j < n:
        rows = min(n - j, tile_size(a))
        if b:
            dot_columns_of(a, a_stride, b, b_stride, rows, width, tile)
            b = <const storage*> (<const char*> b + rows * b_stride)
        else:
            sum_columns_of(a, a_stride, rows, width, tile)
        a = <const storage*> (<const char*> a + rows * a_stride)
        j += rows
        for i in range(groups):
            add_columns(a, &chunk[i], &tile[i])
            if j % chunk_size(a) == 0 or j == n:
                merge_sum_columns(a, &total[i], &chunk[i])
                chunk[i] = empty_sum_columns(a)

# ------------------------------------------------------------------------------------------------ logsumexp with weights

# With weights b: terms of either sign.  arg: x, b, values and perhaps signs.
cdef struct Weighted:
    # The sum of b exp(x) = infinite + exp(m) (c + l): first what its infinite terms come to, c over the other elements equal to m.
    double infinite, m, c
    Sum[double] l

# An infinite weight makes any exponential infinite, however small, but for that of -inf, which is 0.
cdef inline double infinite_term(double v, double w) noexcept nogil:
    return w * (INFINITY if v > -INFINITY else exp(v))

cdef void weighted_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Weighted* s = <Weighted*> room
    cdef Sum[double] c
    cdef storage* x
    cdef storage* b
    cdef double top, v, w
    cdef Py_ssize_t n, i, start = j
    s.m = -INFINITY
    s.infinite = s.c = s.l.high = s.l.low = c.high = c.low = 0
    while j < end:  # the maximum first: over what has a weight
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch[0], mask, -INFINITY)
        b = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        if top_of_weighted(x, b, n, &top):
            for i in range(n):
                w = as_number(b[i])
                v = as_number(x[i])
                if w != 0 and not (v < INFINITY and isfinite(w)):
                    s.infinite += infinite_term(v, w)
        s.m = max(s.m, top)
        j += n
    if s.infinite != 0 or s.m == -INFINITY:
        return
    j = start
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch[0], mask, -INFINITY)
        b = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        add_weighted(x, b, n, s.m, &c, &s.l)
        j += n
    s.c = c.high + c.low

cdef void weighted_merge(const Task* t, Room* a, const Room* b, storage* _) noexcept nogil:
    cdef Weighted* s = <Weighted*> a
    cdef Weighted other = (<const Weighted*> b)[0]
    cdef Weighted larger
    cdef double factor
    s.infinite += other.infinite
    if other.m > s.m:
        larger = other
        larger.infinite = s.infinite
        other = s[0]
        s[0] = larger
    if other.m == s.m:
        s.c += other.c
        s.l.high += other.l.high
        s.l.low += other.l.low
    else:
        factor = exp(other.m - s.m)
        s.l.high += (other.c + other.l.high) * factor
        s.l.low += other.l.low * factor

cdef void weighted_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef const Weighted* s = <const Weighted*> room
    cdef double l = total_of_sum(<const double*> NULL, &s.l), value = s.c + l, result = s.m
    if s.infinite != 0:  # or NaN
        value = s.infinite
        result = fabs(value)
    elif s.m > -INFINITY:
        result = s.m + (log1p(l) if s.c == 1 and l > -1 else log(fabs(value)))
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
        n = at_once(t, end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        at[3] = NULL
        for i in range(t.ninputs):
            at[i] = take(t, row, i, j, n, <storage*> scratch[i], mask, 0)
        dx = open_tile(t, row, t.ninputs, j, <storage*> scratch[0])
        logsumexp_backward_tile(dx, <const storage*> at[0], <const storage*> at[1], <const storage*> at[2], <const storage*> at[3], n, t.streaming)
        close_tile(t, row, t.ninputs, j, n, dx, mask, 0)
        j += n
