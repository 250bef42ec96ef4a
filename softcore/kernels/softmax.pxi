# softmax, log_softmax and logsumexp: one fold over (m, l), then a map.  Their backwards: a sum, then a map.

# ------------------------------------------------------------------------------------------------ the (m, l) state

cdef State[double] absorb(const storage* x, Py_ssize_t n, double scale, acc[storage]* kept, const storage* ahead) noexcept nogil:
    # The state of one tile; its exponentials are left in `kept`.
    cdef State[double] s = state_of_row_max(x, top_of_tile(x, n), scale)
    cdef RowFrame[storage] frame
    cdef Py_ssize_t j = 0, tree = tree_size(x)
    if not isfinite(s.m):
        return s
    frame = frame_of_row(x, &s, scale)
    while j < n:
        add_row(x, &s.l, exp_tree(x + j, n - j, &frame, kept + j if kept else NULL, ahead + j if ahead else NULL))
        j += tree
    if s.l.high != s.l.high:
        s.m = NAN
    return s

cdef State[double] absorb_below(const storage* x, Py_ssize_t n, double scale, Py_ssize_t ahead) noexcept nogil:
    # The same with the largest elements counted instead of added.
    cdef double top = top_of_tile(x, n), count = 0
    cdef State[double] s = state_of_row_max(x, top, scale)
    cdef RowFrame[storage] frame
    cdef Py_ssize_t j = 0, tree = tree_size(x)
    if not isfinite(s.m):
        return s
    frame = frame_of_row(x, &s, scale)
    while j < n:
        add_row(x, &s.l, exp_tree_below(x + j, n - j, &frame, top, &count, ahead))
        j += tree
    s.c = count
    if s.l.high != s.l.high:
        s.m = NAN
    return s

cdef void softmax_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef State[double]* s = <State[double]*> room
    cdef State[double] tile
    cdef Py_ssize_t n
    s[0] = empty_row()
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        tile = absorb(<const storage*> take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY), n, t.scale, NULL, NULL)
        merge_rows(_, s, &tile)
        j += n

cdef void logsumexp_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef State[double]* s = <State[double]*> room
    cdef State[double] tile
    cdef Py_ssize_t n
    s[0] = empty_row()
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        tile = absorb_below(<const storage*> take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY), n, t.scale, t.n if t.ahead else 0)
        merge_rows(_, s, &tile)
        j += n

cdef void softmax_merge(Room* a, const Room* b, storage* _) noexcept nogil:
    merge_rows(_, <State[double]*> a, <const State[double]*> b)

# ------------------------------------------------------------------------------------------------ softmax

cdef void softmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef const State[double]* s = <const State[double]*> room
    cdef RowFrame[storage] frame
    cdef Inverse[storage] inverse
    cdef storage* x
    cdef storage* y
    cdef Py_ssize_t n
    frame = frame_of_row(_, s, t.scale)
    inverse = inverse_of_row(_, s)
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        y = open_tile(t, row, 1, j, <storage*> scratch)
        if isfinite(s.m) and t.n == 1:
            fill_tile(y, n, 1)
        elif isfinite(s.m):
            softmax_tile(y, x, n, &frame, &inverse, t.streaming)
        else:
            fill_tile(y, n, NAN)
        close_tile(t, row, 1, j, n, y, mask, 0)
        j += n

cdef void softmax_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, storage* _) noexcept nogil:
    # Rows short enough to keep their exponentials: x is read once, y written once.
    cdef Kept[storage] kept
    cdef State[double] total
    cdef State[double] tile[4]
    cdef Inverse[storage] inverse
    cdef Room room
    cdef Row row
    cdef storage* x
    cdef storage* y
    cdef const storage* ahead = NULL
    cdef Py_ssize_t r, j, n, tiles, i, size = tile_size(_)
    cdef double factor
    if t.masked or not t.arg[0].direct or not t.arg[1].direct:
        for r in range(first, last):
            enter(t, r, &row)
            softmax_fold(t, &row, 0, t.n, &room, _)
            softmax_map(t, &row, 0, t.n, &room, _)
        return
    tiles = (t.n + size - 1) // size
    for r in range(first, last):
        enter(t, r, &row)
        x = <storage*> row.at[0]
        y = <storage*> row.at[1]
        total = empty_row()
        for i in range(tiles):
            j = i * size
            n = min(t.n - j, size)
            if t.ahead and r + 1 < last:
                ahead = <const storage*> row_start(t, &t.arg[0], r + 1) + j
            else:
                ahead = NULL
            tile[i] = absorb(<const storage*> x + j, n, t.scale, kept.e + j, ahead)
            merge_rows(_, &total, &tile[i])
        if not isfinite(total.m):
            fill_tile(y, t.n, NAN)
            continue
        inverse = inverse_of_row(_, &total)
        for i in range(tiles):
            j = i * size
            n = min(t.n - j, size)
            factor = carried(_, &tile[i], &total) if isfinite(tile[i].m) else 0
            if factor != 0:
                scale_kept(y + j, kept.e + j, n, factor, &inverse, t.streaming)
            else:
                softmax_again(<const storage*> x + j, y + j, n, &total, t.scale, &inverse, t.streaming)

cdef void softmax_again(const storage* x, storage* y, Py_ssize_t n, const State[double]* s, double scale, const Inverse[storage]* inverse, bint streaming) noexcept nogil:
    cdef RowFrame[storage] frame = frame_of_row(x, s, scale)
    softmax_tile(y, x, n, &frame, inverse, streaming)

cdef void softmax_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef Frame[storage] frame[GROUPS]
    cdef Inverse[storage] inverse[GROUPS]
    cdef const storage* x = <const storage*> slab.at[0]
    cdef storage* y = <storage*> slab.at[1]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j
    if slab.n <= SHORT:
        short_columns(t, slab, _)
        return
    fold_columns(x, slab.stride[0], slab.n, slab.width, t.scale, False, s)
    for g in range(groups):
        frame[g] = frame_of_columns(_, &s[g], t.scale)
        inverse[g] = inverse_of_columns(_, &s[g])
    for j in range(slab.n):
        for g in range(groups):
            store_some(y + g * L, softmax_of(load_some(x + g * L, slab.width - g * L, 0), &frame[g], &inverse[g]), slab.width - g * L)
        x = <const storage*> (<const char*> x + slab.stride[0])
        y = <storage*> (<char*> y + slab.stride[1])

cdef void short_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    # One tree is the whole sum: the exponentials are kept and scaled.
    cdef Kept[storage] kept
    cdef State[Doubles[storage]] s
    cdef Frame[storage] frame
    cdef Inverse[storage] inverse
    cdef Doubles[storage] tree
    cdef Lanes[storage] top
    cdef Mask[storage] bad
    cdef Py_ssize_t L = lanes(_), g, j, width
    cdef const storage* x
    cdef storage* y
    for g in range((slab.width + L - 1) // L):
        x = <const storage*> slab.at[0] + g * L
        y = <storage*> slab.at[1] + g * L
        width = min(slab.width - g * L, L)
        top = splat(_, -INFINITY)
        bad = no_mask(_)
        max_columns(x, slab.stride[0], slab.n, width, False, &top, &bad)
        s = state_of_column_max(_, with_nan(top, bad), t.scale)
        frame = frame_of_columns(_, &s, t.scale)
        exp_tree_columns_kept(x, slab.stride[0], slab.n, width, &frame, kept.e, &tree)
        add_tile_columns(_, &s, &tree)
        inverse = inverse_of_columns(_, &s)
        for j in range(slab.n):
            store_some(y, kept_times(kept.e + j * L, &inverse), width)
            y = <storage*> (<char*> y + slab.stride[1])

cdef void fold_columns(const storage* x, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, double scale, bint below, State[Doubles[storage]]* total) noexcept nogil:
    # Tiles into chunks, chunks into the total, as the rows do.
    cdef State[Doubles[storage]] chunk[GROUPS]
    cdef State[Doubles[storage]] s
    cdef Frame[storage] frame
    cdef Doubles[storage] tree
    cdef Lanes[storage] top[GROUPS]
    cdef Lanes[storage] hits
    cdef Mask[storage] bad[GROUPS]
    cdef Py_ssize_t L = lanes(x), groups = (width + L - 1) // L, g, j = 0, i, rows
    cdef const storage* p
    while j < n:
        rows = min(n - j, tile_size(x))
        for g in range(groups):
            top[g] = splat(x, -INFINITY)
            bad[g] = no_mask(x)
        p = <const storage*> (<const char*> x + j * stride)
        max_columns(p, stride, rows, width, False, top, bad)
        for g in range(groups):
            s = state_of_column_max(x, with_nan(top[g], bad[g]), scale)
            frame = frame_of_columns(x, &s, scale)
            hits = splat(x, 0)
            i = 0
            while i < rows:
                p = <const storage*> (<const char*> x + (j + i) * stride) + g * L
                if below:
                    exp_tree_columns_below(p, stride, min(rows - i, tree_size(x)), width - g * L, &frame, &top[g], &tree, &hits)
                else:
                    exp_tree_columns(p, stride, min(rows - i, tree_size(x)), width - g * L, &frame, &tree)
                add_tile_columns(x, &s, &tree)
                i += tree_size(x)
            close_columns(x, &s, hits)
            if j % chunk_size(x):
                merge_columns(x, &chunk[g], &s)
            else:
                chunk[g] = s
        j += rows
        if j % chunk_size(x) == 0 or j == n:
            for g in range(groups):
                if j > chunk_size(x):
                    merge_columns(x, &total[g], &chunk[g])
                else:
                    total[g] = chunk[g]

cdef void softmax_backward_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[2][SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Sum[double]* s = <Sum[double]*> room
    cdef const storage* dy
    cdef const storage* y
    cdef Py_ssize_t n, i
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch[0], mask, 0)
        y = take(t, row, 1, j, n, <storage*> scratch[1], mask, 0)
        i = 0
        while i < n:
            add_row(_, s, dot_tree(dy + i, y + i, n - i, t.n if t.ahead else 0))
            i += tree_size(_)
        j += n

cdef void sum_merge(Room* a, const Room* b, storage* _) noexcept nogil:
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
    # The sum of a * b, or of a alone, down columns: trees into chunks, chunks into the total.
    cdef Sum[Doubles[storage]] chunk = empty_sum_columns(a)
    cdef Doubles[storage] tree
    cdef Py_ssize_t j = 0, rows
    total[0] = empty_sum_columns(a)
    while j < n:
        rows = min(n - j, tree_size(a))
        if b:
            dot_tree_columns(a, a_stride, b, b_stride, rows, width, &tree)
            b = <const storage*> (<const char*> b + rows * b_stride)
        else:
            sum_tree_columns(a, a_stride, rows, width, &tree)
        a = <const storage*> (<const char*> a + rows * a_stride)
        add_columns(a, &chunk, &tree)
        j += rows
        if j % chunk_size(a) == 0 or j == n:
            merge_sum_columns(a, total, &chunk)
            chunk = empty_sum_columns(a)

# ------------------------------------------------------------------------------------------------ log_softmax

cdef void log_softmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef LogFrame[storage] frame = log_frame_of_row(_, <const State[double]*> room, t.scale)
    cdef storage* x
    cdef storage* y
    cdef Py_ssize_t n
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <storage*> scratch, mask, -INFINITY)
        y = open_tile(t, row, 1, j, <storage*> scratch)
        log_softmax_tile(y, <const storage*> x, n, &frame, t.streaming)
        close_tile(t, row, 1, j, n, y, mask, -INFINITY)
        j += n

cdef void log_softmax_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef LogFrame[storage] frame[GROUPS]
    cdef const storage* x = <const storage*> slab.at[0]
    cdef storage* y = <storage*> slab.at[1]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L, j
    fold_columns(x, slab.stride[0], slab.n, slab.width, t.scale, True, s)
    for g in range(groups):
        frame[g] = log_frame_of_columns(_, &s[g], t.scale)
    for j in range(slab.n):
        for g in range(groups):
            store_some(y + g * L, log_softmax_of(load_some(x + g * L, slab.width - g * L, 0), &frame[g]), slab.width - g * L)
        x = <const storage*> (<const char*> x + slab.stride[0])
        y = <storage*> (<char*> y + slab.stride[1])

cdef void log_softmax_backward_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, storage* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Sum[double]* s = <Sum[double]*> room
    cdef const storage* dy
    cdef Py_ssize_t n, i
    s.high = s.low = 0
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        dy = take(t, row, 0, j, n, <storage*> scratch, mask, 0)
        i = 0
        while i < n:
            add_row(_, s, sum_tree(dy + i, n - i, t.n if t.ahead else 0))
            i += tree_size(_)
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

# ------------------------------------------------------------------------------------------------ logsumexp

cdef void logsumexp_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    put_double(_, row.at[1], logsumexp_of_row(_, <const State[double]*> room))

cdef void logsumexp_columns(const Task* t, const Slab* slab, storage* _) noexcept nogil:
    cdef State[Doubles[storage]] s[GROUPS]
    cdef Py_ssize_t L = lanes(_), g, groups = (slab.width + L - 1) // L
    fold_columns(<const storage*> slab.at[0], slab.stride[0], slab.n, slab.width, t.scale, True, s)
    for g in range(groups):
        store_some(<storage*> slab.at[1] + g * L, logsumexp_of_columns(_, &s[g]), slab.width - g * L)

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

cdef void weighted_merge(Room* a, const Room* b, storage* _) noexcept nogil:
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

cdef void sign_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, storage* _) noexcept nogil:
    # return_sign without weights: the sum is positive, or 0 where everything is -inf.
    cdef double m = (<const State[double]*> room).m
    put_double(_, row.at[1], logsumexp_of_row(_, <const State[double]*> room))
    put_double(_, row.at[2], m if m != m else m > -INFINITY)

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
