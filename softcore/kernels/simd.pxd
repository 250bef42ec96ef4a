# What the kernels see of the headers.
#
# Cython finds S from the arguments and writes it out: load(<half*>p) becomes load<half>(p).  A function whose
# arguments do not tell takes a storage pointer first, `_` in the kernels, that nobody follows.

cdef extern from "state.h" namespace "softcore" nogil:
    cdef struct half:
        pass
    cdef struct bfloat16:
        pass
    cdef struct widened:  # a half that lies as a float
        pass

ctypedef fused storage:
    half
    bfloat16
    float
    double

ctypedef fused columned:  # what may lie in columns: a copy of the half types too
    half
    bfloat16
    widened
    float
    double

ctypedef fused copied:    # what is there of them in a copy
    widened
    float
    double

ctypedef fused accumulator:
    float
    double

ctypedef fused element:  # max and its kin keep integers as they are
    half
    bfloat16
    float
    double
    signed char
    unsigned char
    short
    unsigned short
    int
    unsigned int
    long long
    unsigned long long

cdef extern from "rows.h" namespace "softcore" nogil:
    cdef cppclass acc[S]:  # float, double or an integer: what S is computed in
        bint operator>(acc[S])
        bint operator>=(acc[S])
    cdef cppclass Lanes[S]:
        pass
    cdef cppclass Doubles[S]:
        pass

    Py_ssize_t lanes[S](const S*)
    void store_some[S](S*, Lanes[S], Py_ssize_t n)
    Py_ssize_t find[S](const S*, Py_ssize_t n, acc[S], bint last, const unsigned char* mask)
    void fence()

    # the state of a row, in doubles, and of many rows or columns, in lanes of them
    Py_ssize_t tile_size[S](const S*)
    void copy_rows(char*, Py_ssize_t, const char*, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    Py_ssize_t chunk_size[S](const S*)
    Py_ssize_t frame_size[S](const S*)
    cdef cppclass Sum[D]:
        D high
        D low
    cdef cppclass State[D]:
        D m
        Sum[D] l
    cdef cppclass Mass[D]:
        D sum
        D rest
        D rest_low
    cdef cppclass Frame[S]:
        pass
    cdef cppclass Inverse[S]:
        pass
    cdef cppclass LogFrame[S]:
        pass
    cdef cppclass RowFrame[S]:
        pass
    cdef cppclass RowInverse[S]:
        pass

    State[double] empty_row()
    double top_of_tile[S](const S*, Py_ssize_t n)
    State[double] state_of_row_max[S](const S*, double top, double scale)
    RowFrame[S] frame_of_row[S](const S*, const State[double]*, double scale)
    double exp_and_top[S](const S*, Py_ssize_t n, State[double]*, double scale, const S* next, Py_ssize_t next_n)
    void merge_rows[S](const S*, State[double]*, const State[double]*, double scale)
    Mass[double] mass_of_row[S](const S*, const State[double]*, double scale)
    bint is_thin[S](const S*, const Mass[double]*, Py_ssize_t n)
    double rest_from_row[S](const S*, const State[double]* rest, double m, double scale)
    RowInverse[S] inverse_of_row[S](const S*, const State[double]*)
    LogFrame[S] log_of_row[S](const S*, double m, double log, double scale)
    double log_of_mass_of[S](const S*, const Mass[double]*)
    Doubles[S] logs_of_masses[S](const S*, const Mass[Doubles[S]]*)
    double logsumexp_of_row[S](const S*, const State[double]*, const Mass[double]*)
    bint cancelled[S](const S*, double m, double result)
    cdef struct LongSum:
        long double high, low
    double log_of_long(const LongSum*)
    void add_exponentials(LongSum*, const double*, Py_ssize_t n)
    void hide_top[S](S* tile, const S*, Py_ssize_t n, double top)
    void as_doubles[S](double*, const S*, Py_ssize_t n)

    State[Doubles[S]] states_of_max[S](const S*, Lanes[S], double scale)
    Frame[S] frames_of[S](const S*, const State[Doubles[S]]*, double scale)
    Inverse[S] inverses_of[S](const S*, const State[Doubles[S]]*)
    Mass[Doubles[S]] masses_of[S](const S*, const State[Doubles[S]]*, double scale)
    bint any_thin[S](const S*, const Mass[Doubles[S]]*, Py_ssize_t n)
    void set_thin[S](const S*, Mass[Doubles[S]]*, Py_ssize_t n, const State[Doubles[S]]* rest, const State[Doubles[S]]*, double scale)
    LogFrame[S] logs_of[S](const S*, const State[Doubles[S]]*, const Mass[Doubles[S]]*, double scale)
    Doubles[S] logsumexps_of[S](const S*, const State[Doubles[S]]*, const Mass[Doubles[S]]*)
    void close_columns[S](const S*, State[Doubles[S]]*)
    void merge_columns[S](const S*, State[Doubles[S]]*, const State[Doubles[S]]*, double scale)
    bint any_cancelled[S](const S*, const State[Doubles[S]]*, const Doubles[S]* result)
    double number_at[S](const S*, const Doubles[S]*, Py_ssize_t i)
    void set_number[S](const S*, Doubles[S]*, Py_ssize_t i, double)
    Lanes[S] lanes_of_doubles[S](const S*, const Doubles[S]*)
    void top_of_columns[S](const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, Lanes[S]* top, const Lanes[S]* hidden)
    void exp_columns[S](const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, const Frame[S]*, double scale, const Lanes[S]* hidden, Sum[Doubles[S]]*)
    void softmax_of_columns[S](S*, Py_ssize_t, const S*, Py_ssize_t, Py_ssize_t n, Py_ssize_t width, const Frame[S]*, const Inverse[S]*, double scale, bint streaming)
    void log_softmax_of_columns[S](S*, Py_ssize_t, const S*, Py_ssize_t, Py_ssize_t n, Py_ssize_t width, const LogFrame[S]*, double scale, bint streaming)

    enum: WIDE  # the most Lanes of columns side by side where they are not

    # sums of backwards
    enum: SUMS  # Lanes of columns that are summed side by side
    double total_of_sum[S](const S*, const Sum[double]*)
    void add_row[S](const S*, Sum[double]*, double)
    void merge_sums[S](const S*, Sum[double]*, const Sum[double]*)
    void sum_columns_of[S](const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, Doubles[S]*)
    void dot_columns_of[S](const S*, Py_ssize_t, const S*, Py_ssize_t, Py_ssize_t n, Py_ssize_t width, Doubles[S]*)
    void add_columns[S](const S*, Sum[Doubles[S]]*, const Doubles[S]*)
    Sum[Doubles[S]] empty_sum_columns[S](const S*)
    void merge_sum_columns[S](const S*, Sum[Doubles[S]]*, const Sum[Doubles[S]]*)
    Lanes[S] lanes_of_sum_columns[S](const S*, const Sum[Doubles[S]]*)

    # whole tiles
    cdef cppclass Streamed[S]:
        pass
    void finish_line[S](Streamed[S]*)
    void softmax_row[S](S* y, const S* x, Py_ssize_t n, const RowFrame[S]*, const RowInverse[S]*, bint streaming, const S* ahead)
    void log_softmax_row[S](S* y, const S* x, Py_ssize_t n, const LogFrame[S]*, double scale, Streamed[S]*)
    cdef cppclass Gradient[S]:
        pass
    Gradient[S] gradient_of[S](Lanes[S] total, double scale)
    double total_of_tile[S](const S* dy, const S* y, Py_ssize_t n, bint log)
    void gradient_row[S](bint log, S* dx, const S* dy, const S* y, Py_ssize_t n, const Sum[double]*, double scale, Streamed[S]*)
    void gradient_of_row[S](bint log, S* dx, const S* dy, const S* y, Py_ssize_t n, double scale, Streamed[S]*)
    void gradient_columns_of[S](bint log, S* dx, Py_ssize_t, const S* dy, Py_ssize_t, const S* y, Py_ssize_t, Py_ssize_t n, Py_ssize_t width, const Gradient[S]*, bint streaming)
    void logsumexp_backward_tile[S](S* dx, const S* dy, const S* x, const S* y, const S* b, Py_ssize_t n, bint streaming)
    void choose_tile[S](int op, S* y, const S* a, const S* b, Py_ssize_t n, bint streaming)
    void map_tile[S](int op, S* y, const S* a, const S* b, Py_ssize_t n, bint streaming)
    void exp_tile[S](S* y, const S* x, Py_ssize_t n)
    cdef enum Elementwise:
        RELU, STEP, SIGMOID, LOG_SIGMOID, SOFTPLUS, RELU_BACKWARD, SIGMOID_BACKWARD, LOG_SIGMOID_BACKWARD, SOFTPLUS_BACKWARD, MAXIMUM
        SOFTMAX_OF_ONE, LOG_SOFTMAX_OF_ONE, LOGSUMEXP_OF_ONE

    # rows of up to a frame, in blocks
    cdef enum After:
        TO_SOFTMAX, TO_LOG_SOFTMAX, TO_LOGSUMEXP, TO_GRADIENT
    bint keeps_exponentials(int after)
    cdef cppclass RowShare[S]:
        pass
    cdef cppclass Block[S]:
        S* scratch
        S** x
        S** y
        Py_ssize_t* row
        Py_ssize_t rows
        Lanes[S] top
        State[Doubles[S]] s
        Frame[S] frame
        Inverse[S] inverse
        LogFrame[S] log
        RowShare[S]* share
        Py_ssize_t* label
        S* own
    Py_ssize_t block_of_rows[S](const S*, Py_ssize_t n, bint keeps)
    void advance[S](int after, Block[S]* next, Block[S]* now, const Block[S]* done, Py_ssize_t n, double scale, Py_ssize_t ahead, Streamed[S]*)
    void frame_block[S](Block[S]*, double scale)
    S gradient_at_label[S](const Block[S]*, Py_ssize_t i, Py_ssize_t n, double taken)
    void put_own[S](const Block[S]*, Streamed[S]*)

    # layout
    void copy_tile[S](S*, const S*, Py_ssize_t n)
    void repeat_elements(char*, const char*, Py_ssize_t step, Py_ssize_t itemsize, Py_ssize_t n, Py_ssize_t rows)
    void put_index(char*, long long)
    long long index_at(const char*, int code)
    double as_number[S](S)
    bint top_of_weighted[S](const S* x, const S* b, Py_ssize_t n, double* top)
    void add_weighted[S](const S* x, const S* b, Py_ssize_t n, double m, Sum[double]* at_top, Sum[double]* below)
    int code_of_storage[S](const S*)
    cdef enum Code:
        HALF, BFLOAT16, FLOAT, DOUBLE, BOOL, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64, SWAPPED
    void gather[S](S*, const char*, Py_ssize_t stride, Py_ssize_t n, int code)
    void scatter[S](char*, Py_ssize_t stride, const S*, Py_ssize_t n)
    acc[S] fetch_one[S](const S*, const char*, int code)
    void put_one[S](const S*, char*, acc[S])
    void put_double[S](const S*, char*, double)
    void fill_tile[S](S*, Py_ssize_t n, double)
    void multiply[S](S*, Py_ssize_t n, double factor)
    void fill_masked[S](S*, const unsigned char* mask, Py_ssize_t n, double fill)
    double lowest[S](const S*)
    void prefetch_bytes(const char*, Py_ssize_t bytes)
    void to_columns[S](acc[S]*, Py_ssize_t width, const S* x, Py_ssize_t stride, Py_ssize_t length, Py_ssize_t rows)
    void from_columns[S](S* y, Py_ssize_t stride, const acc[S]*, Py_ssize_t width, Py_ssize_t length, Py_ssize_t rows)
    void take_columns[S](acc[S]*, Py_ssize_t width, const S* x, Py_ssize_t stride, Py_ssize_t length, Py_ssize_t rows, bint ahead)
    void put_columns[S](S* y, Py_ssize_t stride, const acc[S]*, Py_ssize_t width, Py_ssize_t length, Py_ssize_t rows)

cdef extern from "max.h" namespace "softcore" nogil:
    cdef cppclass Best[S]:
        acc[S] m
        long long index
        bint found
        bint nan
    acc[S] tile_max[S](const S*, Py_ssize_t n, bint* nan)
    Py_ssize_t tile_argmax[S](const S*, Py_ssize_t n, bint last, bint* nan)
    acc[S] larger_of[S](acc[S], const Best[S]*)
    acc[S] not_a_number[S](const S*)
    acc[S] value_at[S](const S*)
    Py_ssize_t count_alike[S](const S*, Py_ssize_t n, acc[S], const unsigned char* mask)
    S* put_where_alike[S](S* y, const S* x, Py_ssize_t n, acc[S], S)
    void share[S](S*, Py_ssize_t count)
    void max_columns[S](const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, S* y)
    void argmax_columns[S](const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, bint last, S* y, long long* index)
    void hardmax_columns[S](S* y, Py_ssize_t, const S*, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width)
    void max_backward_columns[S](S* dx, Py_ssize_t, const S* dy, const S* x, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t width, int ties)

cdef extern from "columns.h" namespace "softcore" nogil:
    enum: GROUPS  # Lanes of columns that a slab is wide where they are kept
    cdef cppclass Stripe[S]:
        S* x
        S* y
        S* following
        Py_ssize_t* stride
        Py_ssize_t width
        Py_ssize_t groups
        State[Doubles[S]]* s
        Inverse[S]* inverse
        LogFrame[S]* log
    void keep_at[S](Stripe[S]*, char*)
    void advance_columns[S](int after, Stripe[S]* next, Stripe[S]* now, const Stripe[S]* done, Py_ssize_t n, Py_ssize_t step, double scale, bint streaming)

cdef extern from "pool.h" namespace "softcore" nogil:
    # windows
    cdef enum Pooling:
        POOL_MAX, POOL_MAX_INDEX, POOL_MEAN, POOL_SOFT
    cdef enum:
        OUTPUTS, TAPS, PARTIAL_BYTES
    cdef struct Windows:
        Py_ssize_t size
        Py_ssize_t count
        Py_ssize_t window
        Py_ssize_t stride
        Py_ssize_t dilation
        Py_ssize_t before
        Py_ssize_t after
    bint places_inside(const char* places, Py_ssize_t n, long long plane)
    Py_ssize_t start_of(const Windows*, Py_ssize_t output)
    Py_ssize_t first_tap(const Windows*, Py_ssize_t output)
    Py_ssize_t end_tap(const Windows*, Py_ssize_t output)
    Py_ssize_t counted_taps(const Windows*, Py_ssize_t output, bint padding)
    Py_ssize_t first_window(const Windows*, Py_ssize_t i)
    Py_ssize_t first_within(const Windows*, Py_ssize_t output)
    Py_ssize_t end_within(const Windows*, Py_ssize_t output)
    Py_ssize_t end_window(const Windows*, Py_ssize_t i)
    cdef cppclass Packed[S]:
        acc[S]* room
        Py_ssize_t slots
        Py_ssize_t taps
    cdef cppclass Partial[S]:
        acc[S]* m
        bint nan
    void plan_taps[S](const S*, Packed[S]*, const Windows*, Py_ssize_t output, Py_ssize_t outputs, Py_ssize_t first)
    void pack_row[S](const S*, const Packed[S]*, const Windows*, const char* row, Py_ssize_t step, int code, bint lowest)
    Partial[S] partial_at[S](const S*, char*)
    void begin_max[S](const S*, Partial[S]*, const Windows*, const Packed[S]*, bint index)
    void add_max[S](const S*, Partial[S]*, const Windows*, const Packed[S]*, bint index)
    void join_max[S](const S*, Partial[S]*, const Partial[S]*, Py_ssize_t n, Py_ssize_t offset, bint first, bint index)
    void begin_sum[S](const S*, Partial[S]*, Py_ssize_t n)
    void add_sum[S](const S*, Partial[S]*, const Packed[S]*)
    void join_sum[S](const S*, Partial[S]*, const Partial[S]*, Py_ssize_t n)
    void put_row[S](const S*, char*, Py_ssize_t step, const acc[S]*, Py_ssize_t n, int code)
    void put_places[S](const S*, char*, Py_ssize_t step, const Partial[S]*, Py_ssize_t n, Py_ssize_t start, Py_ssize_t stride)
    bint put_means[S](const S*, char*, Py_ssize_t step, const Partial[S]*, const double* count, Py_ssize_t n)
    void add_soft[S](const S*, const Partial[S]*, Partial[S]* mass, Partial[S]* moment, const Packed[S]*, bint below)
    void soft_means[S](const S*, const Partial[S]* mass, const Partial[S]* moment, double* mean, double* total, Py_ssize_t n)
    void put_doubles[S](const S*, char*, Py_ssize_t step, const double*, Py_ssize_t n)
    void soft_gradient[S](const S*, double*, const Packed[S]*, Py_ssize_t tap, const acc[S]* m, const double* mean, const double* slope)
    void add_strided[S](const S*, double* high, double* low, Py_ssize_t step, const double*, Py_ssize_t n)
    void add_to_each[S](const S*, double* high, double* low, Py_ssize_t step, double, Py_ssize_t n)
    void put_sums[S](const S*, char*, Py_ssize_t step, const double* high, const double* low, Py_ssize_t n, bint past)
    void add_slopes[S](const S*, double* high, double* low, const char* dy, Py_ssize_t step, int code, const double* count, Py_ssize_t n)
    S* paint[S](S* line, S* end, acc[S])
    S* paint_windows[S](const S*, S* line, S* at, const Windows*, Py_ssize_t first, Py_ssize_t n, const char* dy, Py_ssize_t step, int code, const double* count, Py_ssize_t start, Py_ssize_t end)
    void add_to_places[S](const S*, double* high, double* low, const long long* place, const double*, Py_ssize_t n, Py_ssize_t wide, Py_ssize_t start, Py_ssize_t length)
    void put_in_places[T](T*, const long long* place, const T*, Py_ssize_t n, Py_ssize_t wide, Py_ssize_t start, Py_ssize_t length)

cdef extern from "pool_direct.h" namespace "softcore" nogil:
    cdef enum:
        STAGED, STAGED_ROOM, ROWS_READ, ROWS_TAKEN, SPAN, HOLDS
    cdef struct Staged:
        bint past
    void open_staged(Staged*, char* room, bint past)
    void close_staged(Staged*)
    char* stage(Staged*, char* to, Py_ssize_t bytes)
    cdef struct Reading:
        const char* row[ROWS_READ]
        Py_ssize_t place[ROWS_READ]
        Py_ssize_t rows
    void ask_for_rows(const Reading*, Py_ssize_t bytes)
    void max_row[S](const S*, char* y, char* index, const Reading*, const Windows*, Py_ssize_t first, Py_ssize_t n, Py_ssize_t start)
    bint mean_row[S](const S*, char* y, const Reading*, const Windows*, Py_ssize_t first, Py_ssize_t n, const double* count)
    cdef struct Holders:
        Py_ssize_t first, end
    void find_holders(Holders*, const Windows*)
    cdef struct Taking:
        const char* dy[ROWS_TAKEN]
        const char* index[ROWS_TAKEN]
        Py_ssize_t depth[ROWS_TAKEN]
        Py_ssize_t height[ROWS_TAKEN]
        double counted[ROWS_TAKEN]
        char* places[ROWS_TAKEN]
        bint unknown[ROWS_TAKEN]
        Py_ssize_t rows
    cdef struct Slopes:
        Py_ssize_t first, n
    void begin_span(Slopes*, const Windows*, Py_ssize_t first, Py_ssize_t n)
    void count_span[S](const S*, Slopes*, const Windows*, Py_ssize_t rows, bint padding)
    void begin_sums[S](const S*, Slopes*)
    void add_to_span[S](const S*, Slopes*, const char* dy, const Windows*, bint begins)
    void spread_row[S](const S*, char* dx, const Slopes*, const Windows*, Py_ssize_t first, Py_ssize_t n)

cdef extern from "pool_along.h" namespace "softcore" nogil:
    bint goes_along(const Windows*)
    bint goes_along_softly(const Windows*, Py_ssize_t lanes)
    cdef struct Stack:
        const char* row
        Py_ssize_t deep, high, first_place, pixel
        Py_ssize_t step[2]
        Py_ssize_t place[2]
        int code
        bint direct
        char* bench
    void sums_along[S](const S*, Partial[S]*, const Stack*, const Windows*, Py_ssize_t first, Py_ssize_t n)
    void sums_beside[S](const S*, Partial[S]*, const Stack*, const Windows*, Py_ssize_t apart, Py_ssize_t planes)
    void max_along[S](const S*, Partial[S]*, const Stack*, const Windows*, Py_ssize_t first, Py_ssize_t n, bint index)
    void soft_along[S](const S*, const Partial[S]*, Partial[S]* mass, Partial[S]* moment, const Stack*, const Windows*, Py_ssize_t first, Py_ssize_t n, bint below)
    void spread_soft_along[S](const S*, double* high, double* low, const Stack*, const Windows*, Py_ssize_t first, Py_ssize_t n, const acc[S]* m, const double* mean, const double* slope, Py_ssize_t start, Py_ssize_t end)

cdef extern from "pool_across.h" namespace "softcore" nogil:
    cdef enum:
        SLOTS_MOST
    cdef struct Blocks:
        Py_ssize_t outputs, many, across, slot_bytes, rows
    Py_ssize_t channels_across(Py_ssize_t channels)
    Blocks blocks_of(const Windows*, Py_ssize_t channels, Py_ssize_t bytes)
    Py_ssize_t slots_of(const Blocks*, const Windows*)
    cdef struct Pass:
        const char* x
        Py_ssize_t pixel, channels, across, ahead
        Py_ssize_t place
        Py_ssize_t first, outputs
        const char* above[SLOTS_MOST]
        Py_ssize_t rows
        char* keep
        char* join
        char* y
        char* index
        Py_ssize_t y_step, index_step
        bint nan
    void max_pass[S](const S*, Pass*, const Windows*, Staged*, Staged*, bint places)
    bint mean_pass[S](const S*, const Pass*, const Windows*, Py_ssize_t counted, bint padding, Staged*)
    cdef struct Pixels:
        char* y
        Py_ssize_t pixel, y_step, index_step, channels, across, slots
        bint fresh, lines
        double* sums
    void spread_pixels[S](const S*, const Pixels*, const Taking*, const Holders*, Py_ssize_t size, const double* counted, double full, Staged*)
    bint match_pixels[S](const S*, const Pixels*, const Taking*, const Holders*, const Windows*, Py_ssize_t place, Staged*)

cdef extern from "pool_scatter.h" namespace "softcore" nogil:
    cdef enum:
        RING
    cdef struct Extent:
        pass
    cdef struct Scattering:
        const char* place
        const char* v
        Py_ssize_t place_step, v_step, windows, channels
        char* to
        Py_ssize_t to_step
        Py_ssize_t start "from"
        Py_ssize_t length
        Extent* extents
    cdef struct Ring:
        double* high
        double* low
        Py_ssize_t clean
        bint past
    Py_ssize_t stretches_of(Py_ssize_t windows)
    bint find_extents(Scattering*, Py_ssize_t pixels)
    cdef enum Landed:
        LANDED, MET, OUTSIDE
    Landed land_alone[S](const S*, const Scattering*)
    Landed land_last[T](const T*, const Scattering*)
    Landed land_sums[S](const S*, Ring*, const Scattering*)
    bint scatter_alone[S](const S*, Ring*, const Scattering*)
    void scatter_sums[S](const S*, Ring*, const Scattering*)
    void scatter_last[T](const T*, Ring*, const Scattering*)

cdef extern from "walk.h" namespace "softcore" nogil:
    cdef cppclass Walk[S]:
        pass
    Py_ssize_t most_kept[S](const S*)
    void begin_walk[S](Walk[S]*, int after, acc[S]* kept, Py_ssize_t n, bint streaming)
    double walk_frame[S](Walk[S]*, const S* x, Py_ssize_t j, Py_ssize_t n, State[double]*, const S* next, Py_ssize_t next_n)
    bint turn_to_softmax[S](Walk[S]*, S* y, const State[double]*)
    void turn_to_log_softmax[S](Walk[S]*, S* y, const S* x, double m, double log)
    void end_written[S](Walk[S]*)
    void write_last[S](Walk[S]*)

cdef extern from "losses.h" namespace "softcore" nogil:
    cdef struct Exact:
        pass
    void empty_exact(Exact*)
    void add_to(Exact*, double)
    void merge_exact(Exact*, Exact*)
    double value_of(Exact*)
    cdef struct Targets:
        Py_ssize_t bad
        Py_ssize_t kept
        Exact weight
    void scan_targets(Targets*, Py_ssize_t at, const char*, Py_ssize_t stride, Py_ssize_t n, int code, Py_ssize_t classes, long long ignored, const char* weight, Py_ssize_t weight_stride, int weight_code)
    cdef struct Loss:
        double keep, spread, z, weights, factor, total
        long long ignored
        bint soft, sums
        int weight, pos_weight, dloss, value, gradient
        Exact* totals
    cdef struct LossRow:
        State[double] s
        Sum[double] dot, mass
        double amount, taken, c
    cdef cppclass GradientRow[S]:
        pass
    void put_number(char*, int code, double)
    double number_at_address[S](const S*, const char*, int code)
    void weigh_row[S](const S* x, const S* target, const S* weight, Py_ssize_t n, const Loss*, Sum[double]* dot, Sum[double]* mass)
    void merge_sums_of_loss(Sum[double]*, const Sum[double]*)
    double loss_of(const LossRow*, double log, double h, double x, double lse, const Loss*)
    RowShare[S] share_of[S](const S*, const LossRow*)
    GradientRow[S] gradient_row_of[S](const S*, const LossRow*, const Loss*)
    void loss_gradient_row[S](S* y, const S* x, const S* target, const S* weight, Py_ssize_t n, const GradientRow[S]*, bint streaming, const S* ahead)
    S gradient_of_label[S](const S* x, const S* weight, const GradientRow[S]*)
    void binary_tile[S](acc[S]* losses, S* y, const S* x, const S* target, const S* weight, const S* pos_weight, const acc[S]* dloss, Py_ssize_t n, const Loss*, Sum[double]* total, bint streaming)
    cdef cppclass Turned[A]:
        A* own
        A* spread
        double* taken
        double* loss
        double* x
        double* weight
        double* c
        long long* label
    void take_labels[A](Turned[A]*, const A* x, const A* weight, Py_ssize_t width, Py_ssize_t count, const Loss*)
    void settle_labels[A](Turned[A]*, Py_ssize_t, const State[Doubles[A]]*, const Doubles[A]* log, const Loss*)
    void add_losses[A](const A*, Exact*, const double* loss, Py_ssize_t width)
    void put_losses(char*, Py_ssize_t step, int code, const double* loss, Py_ssize_t count)
    void set_turned[A](Turned[A]*, Py_ssize_t, const LossRow*, const Loss*)
    void weigh_columns[A](const A* x, const A* target, const A* weight, Py_ssize_t width, Py_ssize_t n, const Loss*, Sum[Doubles[A]]* dot, Sum[Doubles[A]]* mass)
    void share_columns[A](A* e, Py_ssize_t width, Py_ssize_t n, const Turned[A]*)
    void less_labels[A](A* e, Py_ssize_t width, Py_ssize_t n, Py_ssize_t count, const Turned[A]*)
    void less_columns[A](A* e, const A* target, const A* weight, Py_ssize_t width, Py_ssize_t n, const Turned[A]*)
    bint turn_to_gradient[S](Walk[S]*, S* y, const S* x, const LossRow*, const Loss*, Py_ssize_t label)
cdef extern from "gates.h" namespace "softcore" nogil:
    # sweeps that write several results, and sums of gradients over what was broadcast
    cdef enum Sweep:
        MAXIMUM_BACKWARD, GATE, GATE_BACKWARD, GLU, GLU_BACKWARD
    cdef enum Gradients:
        OF_MAXIMUM, OF_GATE
    enum: RESULTS
    void sweep_tile[S](int op, int by, S** y, const S* const* x, Py_ssize_t n, bint streaming)
    double sum_gradient[S](int which, const S* const* x, Py_ssize_t n)
    void sum_gradient_columns[S](int which, S* y, const char* const* x, const Py_ssize_t* stride, const bint* wide, Py_ssize_t n, Py_ssize_t width)
# softmax_gate and topk_gate
cdef extern from "mixtures.h" namespace "softcore" nogil:
    cdef enum:
        WIDTH
    cdef struct Matrix:
        const char* data
        Py_ssize_t row
        Py_ssize_t column
        int code
    void put_results[A](char*, Py_ssize_t stride, const A*, Py_ssize_t n, int code)
    void zero_doubles(double*, Py_ssize_t n)
    Py_ssize_t BLENDED_AHEAD, SPREAD_AHEAD
    Py_ssize_t ahead_of(Py_ssize_t row, Py_ssize_t bytes)

    cdef cppclass Blend[A]:
        double* high
        double* low
    void empty_blend[A](Blend[A]*, Py_ssize_t d)
    void blend_rows[A](Blend[A]*, const char* x, Py_ssize_t row, Py_ssize_t column, int code, const A* w, const unsigned char* mask, Py_ssize_t n, Py_ssize_t d, Py_ssize_t ahead)
    void merge_blend[A](Blend[A]*, const double* high, const double* low, Py_ssize_t d)
    void put_blend[A](const Blend[A]*, char*, Py_ssize_t stride, Py_ssize_t d, int code)
    double logarithm_of_row[A](const A*, const State[double]*, const Mass[double]*, double scale)

    cdef cppclass AnyStreamed:
        pass
    void finish_lines(AnyStreamed*)
    cdef struct GradientRows:
        Matrix x
        Matrix y
        Matrix dx
        bint plain
        Py_ssize_t d
        Py_ssize_t ahead
    void gradient_rows_of[A](const GradientRows*, const A* w, const unsigned char* mask, Py_ssize_t n, A* s, AnyStreamed*, bint past)
    double weighted_total[A](const A* w, const A* s, Py_ssize_t n)
    void gradient_of_weights[A](const A* w, A* s, const unsigned char* mask, Py_ssize_t n, double total, double scale, double* sum)

    cdef cppclass Spread[A]:
        const char** y
    Py_ssize_t rows_to_spread[A](const A*, Py_ssize_t d)
    unsigned char* spread_mask[A](Spread[A]*, Py_ssize_t i)
    void set_weights[A](Spread[A]*, Py_ssize_t i, const A* w, Py_ssize_t n)
    void empty_spread[A](Spread[A]*)
    void spread_eight[A](Spread[A]*, Py_ssize_t count, Py_ssize_t column, int code, bint masked, Py_ssize_t rows, Py_ssize_t d)
    void close_spread[A](Spread[A]*, Py_ssize_t rows, Py_ssize_t d)
    void put_spread[A](const Spread[A]*, char*, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t d, int code)

    cdef enum:
        ENTRY_BYTES
    Py_ssize_t entries_of_choice(Py_ssize_t n, Py_ssize_t k)
    void choose_row(const char*, Py_ssize_t stride, Py_ssize_t n, int code, Py_ssize_t k, char* kept, long long* index)
    void copy_as(char* to, int code_to, const char* from_, int code_from)
    void scatter_chosen[A](A* dr, Py_ssize_t start, Py_ssize_t n, const A* g, const long long* index, Py_ssize_t k, const A* y, double total)
    double dot_few[A](const A*, const A*, Py_ssize_t n)
    void gradient_few[A](A* g, const A* w, const A* dw, double total, Py_ssize_t n)
    void gradient_of_chosen[A](A* g, const A* w, Py_ssize_t width, Py_ssize_t k)

cdef extern from "attention.h" namespace "softcore" nogil:
    cdef enum:
        CHUNK_KEYS
    cdef enum Operands:
        OF_Q, OF_K, OF_V, OF_O, OF_LSE, OF_MASK, OF_BIAS, OF_DO, OF_DQ, OF_DK, OF_DV, OF_DBIAS, ATTENTION_OPERANDS
    cdef struct Layout:
        Py_ssize_t head, row, column
        int code
        bint given
    cdef struct Sequence:
        char* at[12]
        Py_ssize_t queries, keys, offset
    cdef struct Attention:
        Layout layout[12]
        Py_ssize_t group, d, dv
        double scale, softcap
        bint causal
        Py_ssize_t left, right
        const double* slopes
        const double* sinks
    char* address_of(const Attention*, const Sequence*, int which, Py_ssize_t head, Py_ssize_t row)
    cdef cppclass Strip[A]:
        pass
    Py_ssize_t row_width[A](const A*, Py_ssize_t n)
    Py_ssize_t strip_rows[A](const A*, bint gradients)
    Py_ssize_t scratch_size[A](const Attention*, bint gradients, char*, Strip[A]**)
    void attend_strip[A](const Attention*, const Sequence*, Py_ssize_t head, Py_ssize_t first, Py_ssize_t rows, Strip[A]*)
    void attend_part[A](const Attention*, const Sequence*, Py_ssize_t head, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t start, Strip[A]*, A* part)
    void merge_strip[A](const Attention*, const Sequence*, Py_ssize_t head, Py_ssize_t first, Py_ssize_t rows, Strip[A]*, const A* part)
    void chunk_gradients[A](const Attention*, const Sequence*, Py_ssize_t head, Py_ssize_t start, Strip[A]*, A* dq, int* done)
    double sink_gradient[A](const Attention*, const Sequence*, Py_ssize_t head, Strip[A]*)
    cdef struct Sharer:
        const Sequence* s
        Py_ssize_t head
    void bias_gradient[A](const Attention*, const Sharer*, Py_ssize_t count, Py_ssize_t query, Py_ssize_t start, Py_ssize_t queries, Py_ssize_t keys, bint one_row, bint one_column, Strip[A]*, double* room)
    cdef struct PartRow:
        const char* o
        const char* lse
    void merge_parts_of_row(const PartRow*, Py_ssize_t parts, Py_ssize_t n, Py_ssize_t column, int code, int lse_code, char* o, Py_ssize_t o_column, int o_code, char* lse, int out_code)
