# A task: the operands of one call, and the walk over them.
#
# Every operand's dimensions come as outer dims (one row each) and length dims (along the row).  A row is handed to
# the kernels in tiles: a tile is a pointer into the array where that is contiguous and of the kernel's storage, and
# a gathered copy in scratch memory otherwise; what the kernel writes goes back the same way.

cdef enum:
    DIMS = 64
    OPERANDS = 7
    SCRATCH = 4096  # bytes of a tile, whatever its storage
    SCRATCH_DOUBLES = 1024  # a tile of floats, widened
    FRAME_SCRATCH = 16384   # bytes of a frame

cdef struct Operand:
    char* data
    int code
    bint direct           # its tiles need no copy
    Py_ssize_t itemsize
    Py_ssize_t outer[DIMS]
    Py_ssize_t length[DIMS]

cdef struct Task:
    int nouter, nlength, nargs, ninputs
    Py_ssize_t outer[DIMS]
    Py_ssize_t length[DIMS]
    Py_ssize_t rows, n
    Operand arg[OPERANDS]  # inputs, then outputs
    Operand mask
    bint masked
    double scale           # positive
    double factor          # what operand 0 is multiplied by as it is gathered: -1, or a scale that is 0 or not finite
    int option
    int variant            # of that option
    bint log               # of softmax and log_softmax, which share their backward, the latter
    bint streaming         # outputs leave the cache: write past it
    bint ahead             # inputs come from memory: ask for the next row early
    Loss* loss             # what else a loss needs, or NULL

cdef struct Row:
    char* at[OPERANDS]
    char* mask

# A task as it is unless its call says otherwise.
cdef inline void begin_task(Task* t) noexcept nogil:
    t.nargs = t.ninputs = t.option = t.variant = 0
    t.scale = t.factor = 1
    t.masked = t.log = t.streaming = t.ahead = False
    t.loss = NULL

cdef inline char* row_start(const Task* t, const Operand* a, Py_ssize_t r) noexcept nogil:
    cdef char* p = a.data
    cdef int d = t.nouter - 1
    while d > 0:
        p += (r % t.outer[d]) * a.outer[d]
        r = r // t.outer[d]
        d -= 1
    if d == 0:
        p += r * a.outer[0]
    return p

cdef inline void enter(const Task* t, Py_ssize_t r, Row* row) noexcept nogil:
    cdef int i
    for i in range(t.nargs):
        row.at[i] = row_start(t, &t.arg[i], r)
    row.mask = row_start(t, &t.mask, r) if t.masked else NULL

# Row r, after row r - 1.
cdef inline void enter_next(const Task* t, Py_ssize_t r, Row* row) noexcept nogil:
    cdef int i, d = t.nouter - 1
    if d < 0 or (d > 0 and r % t.outer[d] == 0):
        enter(t, r, row)
        return
    for i in range(t.nargs):
        row.at[i] += t.arg[i].outer[d]
    if t.masked:
        row.mask += t.mask.outer[d]

# Where element j of a row lies, and how many follow at the last dimension's stride.
cdef inline Py_ssize_t offset_of(const Task* t, const Operand* a, Py_ssize_t j, Py_ssize_t* run) noexcept nogil:
    cdef Py_ssize_t p = 0
    cdef int d = t.nlength - 1
    if d < 0:
        run[0] = 1
        return 0
    run[0] = t.length[d] - j % t.length[d]
    while d > 0:
        p += (j % t.length[d]) * a.length[d]
        j = j // t.length[d]
        d -= 1
    return p + j * a.length[0]

cdef inline Py_ssize_t stride_of(const Task* t, const Operand* a) noexcept nogil:
    return a.length[t.nlength - 1] if t.nlength else 0

cdef void gather_tile(const Task* t, const Operand* a, const char* row, Py_ssize_t j, Py_ssize_t n, element* tile) noexcept nogil:
    cdef Py_ssize_t run = 0, p
    while n > 0:
        p = offset_of(t, a, j, &run)
        run = run if run < n else n
        gather(tile, row + p, stride_of(t, a), run, a.code)
        tile += run
        j += run
        n -= run

# The mask of a tile: NULL where all take part.
cdef inline unsigned char* take_mask(const Task* t, const Row* row, Py_ssize_t j, Py_ssize_t n, unsigned char* room) noexcept nogil:
    if not t.masked:
        return NULL
    gather_tile(t, &t.mask, row.mask, j, n, room)
    return room

# Elements j to j + n of operand i, to be read; masked ones are `fill`.
cdef inline element* take(const Task* t, const Row* row, int i, Py_ssize_t j, Py_ssize_t n, element* room, const unsigned char* mask, double fill) noexcept nogil:
    if t.arg[i].direct and mask == NULL:
        return <element*>(row.at[i]) + j
    gather_tile(t, &t.arg[i], row.at[i], j, n, room)
    if i == 0 and t.factor != 1:
        multiply(room, n, t.factor)
    if mask != NULL:
        fill_masked(room, mask, n, fill)
    return room

# Whether no operand needs a tile.
cdef inline bint all_direct(const Task* t) noexcept nogil:
    cdef int i
    for i in range(t.nargs):
        if not t.arg[i].direct:
            return False
    return not t.masked

# How many of the elements that are left are taken at once: all of them where no operand needs a tile.
cdef inline Py_ssize_t at_once(const Task* t, Py_ssize_t left, Py_ssize_t tile) noexcept nogil:
    return left if all_direct(t) else min(left, tile)

# Room for elements j to j + n of output i, and their way back.
cdef inline element* open_tile(const Task* t, const Row* row, int i, Py_ssize_t j, element* room) noexcept nogil:
    return <element*>(row.at[i]) + j if t.arg[i].direct else room

cdef void close_tile(const Task* t, const Row* row, int i, Py_ssize_t j, Py_ssize_t n, element* tile, const unsigned char* mask, double fill) noexcept nogil:
    cdef Py_ssize_t run = 0, p
    if mask != NULL:
        fill_masked(tile, mask, n, fill)
    if t.arg[i].direct:
        return
    while n > 0:
        p = offset_of(t, &t.arg[i], j, &run)
        run = run if run < n else n
        scatter(row.at[i] + p, stride_of(t, &t.arg[i]), tile, run)
        tile += run
        j += run
        n -= run

# Columns: the same row position of `width` neighbouring rows, `stride` bytes from one position to the next.
cdef struct Slab:
    char* at[OPERANDS]
    Py_ssize_t stride[OPERANDS]
    Py_ssize_t n, width, unit

cdef struct Slabs
cdef struct Kernel

ctypedef struct Room:  # a state of any kind
    double bytes[12]

ctypedef void (*Fold)(const Task*, const Row*, Py_ssize_t, Py_ssize_t, Room*, void*) noexcept nogil
ctypedef void (*Merge)(const Task*, Room*, const Room*, void*) noexcept nogil
ctypedef void (*Finish)(const Task*, const Row*, Room*, void*) noexcept nogil
ctypedef void (*Map)(const Task*, const Row*, Py_ssize_t, Py_ssize_t, const Room*, void*) noexcept nogil
ctypedef bint (*Rows)(const Task*, Py_ssize_t, Py_ssize_t, void*) noexcept nogil
ctypedef void (*Columns)(const Task*, const Slab*, void*) noexcept nogil
ctypedef bint (*SlabBySlab)(const Slabs*, void*) noexcept nogil
ctypedef void (*Turn)(const Slabs*, Slab*, void*) noexcept nogil

# Slabs `first` to `last` of a task, `wide` columns each or less: columns of its operands, or rows that are turned into columns and back.
cdef struct Slabs:
    const Task* task
    const Kernel* kernel
    Py_ssize_t wide, first, last
    Turn enter
    Turn leave             # or NULL
    char* room             # for what is turned

# How an op runs for one storage.  fold(j0, j1) absorbs a stretch of a row into a state, merge joins states in order,
# map writes a stretch, of what `finish` made of the state if there is one.  `rows` does whole rows of up to `longest` at once and says
# whether it had the memory, `columns` a slab, and `slabs` many where it has the memory.
cdef struct Kernel:
    Fold fold
    Merge merge
    Finish finish
    Map map
    Rows rows
    Columns columns
    SlabBySlab slabs
    bint reduces           # the result is one value a row: map is called once
    bint whole             # a row's map must see all of it
    bint known             # there is such a kernel
    Py_ssize_t chunk       # elements a state may be cut at
    Py_ssize_t lanes       # columns that are worked on together
    Py_ssize_t widest      # the most Lanes of columns that `columns` takes at once
    Py_ssize_t longest     # the longest row for `rows`
    Py_ssize_t short       # the longest row that is better worked on as a column, with others beside it
    bint packs             # element-wise: several rows are as good as one
    bint spreads           # columns may share an element of an operand
