# max and argmax: the fold that keeps one element, and what follows from its place.

# How much of a row is taken at once: what needs no copy may be longer than a tile.
cdef inline Py_ssize_t stretch(const Task* t, int x, Py_ssize_t n, element* _) noexcept nogil:
    return min(n, frame_size(_) if t.arg[x].direct and not t.masked else tile_size(_))

cdef void max_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, element* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Best[element]* s = <Best[element]*> room
    cdef element* x
    cdef acc[element] m
    cdef bint nan = False
    cdef Py_ssize_t n
    s.found = s.nan = False
    s.index = 0
    while j < end:
        n = stretch(t, 0, end - j, _)
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, 0, j, n, <element*> scratch, mask, lowest(_))
        m = larger_of(tile_max(x, n, &nan), s)
        if nan:
            s.nan = True
            return
        s.m = m
        s.found = True
        j += n

cdef void argmax_fold(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, Room* room, element* _) noexcept nogil:
    find_best(t, row, 0, j, end, t.option == 1, <Best[element]*> room, _)

# The first largest element of operand `of`, or the last.
cdef void find_best(const Task* t, const Row* row, int of, Py_ssize_t j, Py_ssize_t end, bint last, Best[element]* s, element* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef element* x
    cdef acc[element] m
    cdef bint nan = False
    cdef Py_ssize_t n, i
    s.found = s.nan = False
    s.index = 0
    while j < end and not s.nan:
        n = stretch(t, of, end - j, _)
        mask = take_mask(t, row, j, n, masks)
        x = take(t, row, of, j, n, <element*> scratch, mask, lowest(_))
        i = tile_argmax(x, n, last, &nan)
        m = value_at(x + i)
        if not s.found or nan or m > s.m or (last and m >= s.m):
            if mask != NULL:
                i = find(x, n, m, last and not nan, mask)  # what is masked may equal the lowest number of all
            if i >= 0:
                s.m = m
                s.index = j + i
                s.found = True
                s.nan = nan
        j += n

cdef void max_merge(const Task* t, Room* a, const Room* b, element* _) noexcept nogil:
    # b's elements come after a's.
    cdef Best[element]* s = <Best[element]*> a
    cdef const Best[element]* other = <const Best[element]*> b
    if other.nan or s.nan:
        if not s.nan:
            s[0] = other[0]
    elif other.found:
        s.m = larger_of(other.m, s)
        s.found = True

cdef void argmax_merge(const Task* t, Room* a, const Room* b, element* _) noexcept nogil:
    cdef Best[element]* s = <Best[element]*> a
    cdef const Best[element]* other = <const Best[element]*> b
    if not s.nan and other.found and (other.nan or not s.found or other.m > s.m):
        s[0] = other[0]

cdef void argmax_merge_last(const Task* t, Room* a, const Room* b, element* _) noexcept nogil:
    cdef Best[element]* s = <Best[element]*> a
    cdef const Best[element]* other = <const Best[element]*> b
    if not s.nan and other.found and (other.nan or not s.found or other.m >= s.m):
        s[0] = other[0]

cdef void max_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    cdef const Best[element]* s = <const Best[element]*> room
    if s.nan:
        put_one(_, row.at[1], not_a_number(_))
    elif s.found:
        put_one(_, row.at[1], s.m)
    else:
        put_double(_, row.at[1], lowest(_))

cdef bint max_rows(const Task* t, Py_ssize_t first, Py_ssize_t last, element* _) noexcept nogil:
    # A row that needs no copy is one call; a state would take as long as a hundred elements.
    cdef Row row
    cdef Room room
    cdef acc[element] m
    cdef bint nan = False
    cdef Py_ssize_t r
    for r in range(first, last):
        if r == first:
            enter(t, r, &row)
        else:
            enter_next(t, r, &row)
        if t.arg[0].direct and not t.masked:
            m = tile_max(<element*> row.at[0], t.n, &nan)
            put_one(_, row.at[1], not_a_number(_) if nan else m)
        else:
            max_fold(t, &row, 0, t.n, &room, _)
            max_map(t, &row, 0, t.n, &room, _)
    return True

cdef void argmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    cdef const Best[element]* s = <const Best[element]*> room
    if t.nargs == 3:
        if s.found:
            put_one(_, row.at[1], s.m)
        else:
            put_double(_, row.at[1], lowest(_))
    put_index(row.at[t.nargs - 1], s.index)

cdef void max_slab(const Task* t, const Slab* slab, element* _) noexcept nogil:
    max_columns(<const element*> slab.at[0], slab.stride[0], slab.n, slab.width, <element*> slab.at[1])

cdef void argmax_slab(const Task* t, const Slab* slab, element* _) noexcept nogil:
    argmax_columns(<const element*> slab.at[0], slab.stride[0], slab.n, slab.width, t.option == 1, <element*> slab.at[1] if t.nargs == 3 else NULL, <long long*> slab.at[t.nargs - 1])

cdef void hardmax_slab(const Task* t, const Slab* slab, element* _) noexcept nogil:
    hardmax_columns(<element*> slab.at[1], slab.stride[1], <const element*> slab.at[0], slab.stride[0], slab.n, slab.width)

cdef void max_backward_slab(const Task* t, const Slab* slab, element* _) noexcept nogil:
    max_backward_columns(<element*> slab.at[2], slab.stride[2], <const element*> slab.at[0], <const element*> slab.at[1], slab.stride[1], slab.n, slab.width, t.option)

cdef void hardmax_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    cdef char scratch[SCRATCH]
    cdef Py_ssize_t n, index = (<const Best[element]*> room).index
    cdef element* y
    while j < end:
        n = min(end - j, tile_size(_))
        y = open_tile(t, row, 1, j, <element*> scratch)
        fill_tile(y, n, 0)
        if j <= index < j + n:
            fill_tile(y + (index - j), 1, 1)
        close_tile(t, row, 1, j, n, y, NULL, 0)
        j += n

# max_backward.  arg: dy, x, perhaps index, dx; option: 0 first, 1 last, 2 split, 3 all.
cdef struct Ties:
    Py_ssize_t index, count

cdef void max_backward_map(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t end, const Room* room, element* _) noexcept nogil:
    # One thread has the whole row: the search, the count and the writing follow each other.
    cdef char scratch[SCRATCH]
    cdef unsigned char masks[SCRATCH]
    cdef unsigned char* mask
    cdef Best[element] s
    cdef Py_ssize_t index = -1, count = 1, start = j, n
    cdef int out = t.nargs - 1
    cdef element* x
    cdef element dy
    gather(&dy, row.at[0], 0, 1, t.arg[0].code)
    if t.ninputs == 3:
        index = index_at(row.at[2], t.arg[2].code)
    else:
        find_best(t, row, 1, j, end, t.option == 1, &s, _)
        index = s.index if s.found else -1
    if t.option >= 2 and index >= 0:
        if t.ninputs == 3:
            s.m = fetch_one(_, row.at[1] + offset_of(t, &t.arg[1], index, &n), t.arg[1].code)
        count = 0
        while j < end and t.option == 2:
            n = min(end - j, tile_size(_))
            mask = take_mask(t, row, j, n, masks)
            x = take(t, row, 1, j, n, <element*> scratch, mask, 0)
            count += count_alike(x, n, s.m, mask)
            j += n
        j = start
        if t.option == 2:
            share(&dy, count)
        while j < end:
            n = min(end - j, tile_size(_))
            mask = take_mask(t, row, j, n, masks)
            x = take(t, row, 1, j, n, <element*> scratch, mask, 0)
            x = put_where_alike(open_tile(t, row, out, j, <element*> scratch), x, n, s.m, dy)
            close_tile(t, row, out, j, n, x, mask, 0)
            j += n
        return
    while j < end:
        n = min(end - j, tile_size(_))
        mask = take_mask(t, row, j, n, masks)
        x = open_tile(t, row, out, j, <element*> scratch)
        fill_tile(x, n, 0)
        if j <= index < j + n:
            x[index - j] = dy
        close_tile(t, row, out, j, n, x, mask, 0)
        j += n
