// Matrix<T, ROWS, COLS>, stored as rows, with element-wise operators.
#pragma once

template<typename T, int ROWS, int COLS>
struct Matrix
{
    Vector<T, COLS> rows[ROWS];

    SLANGRAST_METHOD Vector<T, COLS>& operator[](size_t index) { return rows[index]; }
    SLANGRAST_METHOD const Vector<T, COLS>& operator[](size_t index) const { return rows[index]; }
};

// From one scalar for every element, or from all the elements in reading order.
template<typename T, int ROWS, int COLS, typename... Scalars>
SLANGRAST_INLINE Matrix<T, ROWS, COLS> makeMatrix(T first, Scalars... rest)
{
    constexpr int count = 1 + sizeof...(rest);
    static_assert(count == 1 || count == ROWS * COLS, "a matrix takes one scalar or one for each element");
    const T values[count] = {first, T(rest)...};
    Matrix<T, ROWS, COLS> result;
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < COLS; column++)
            result.rows[row][column] = values[count == 1 ? 0 : row * COLS + column];
    return result;
}

// From its rows.
template<typename T, int ROWS, int COLS, typename... Rows>
SLANGRAST_INLINE Matrix<T, ROWS, COLS> makeMatrix(const Vector<T, COLS>& first, const Rows&... rest)
{
    return {{first, rest...}};
}

// From a matrix of another type or size: what the other lacks is zero.
template<typename T, int ROWS, int COLS, typename U, int R, int C>
SLANGRAST_INLINE Matrix<T, ROWS, COLS> makeMatrix(const Matrix<U, R, C>& other)
{
    Matrix<T, ROWS, COLS> result;
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < COLS; column++)
            result.rows[row][column] = row < R && column < C ? T(other.rows[row][column]) : T(0);
    return result;
}

#define SLANGRAST_BINARY(OPERATOR, RESULT)                                                                             \
    template<typename T, int R, int C>                                                                                 \
    SLANGRAST_INLINE Matrix<RESULT, R, C> operator OPERATOR(const Matrix<T, R, C>& a, const Matrix<T, R, C>& b)        \
    {                                                                                                                  \
        Matrix<RESULT, R, C> result;                                                                                   \
        for (int row = 0; row < R; row++)                                                                              \
            result.rows[row] = a.rows[row] OPERATOR b.rows[row];                                                       \
        return result;                                                                                                 \
    }
#define SLANGRAST_UNARY(OPERATOR)                                                                                      \
    template<typename T, int R, int C>                                                                                 \
    SLANGRAST_INLINE Matrix<T, R, C> operator OPERATOR(const Matrix<T, R, C>& value)                                   \
    {                                                                                                                  \
        Matrix<T, R, C> result;                                                                                        \
        for (int row = 0; row < R; row++)                                                                              \
            result.rows[row] = OPERATOR value.rows[row];                                                               \
        return result;                                                                                                 \
    }

SLANGRAST_BINARY(+, T)
SLANGRAST_BINARY(-, T)
SLANGRAST_BINARY(*, T)
SLANGRAST_BINARY(/, T)
SLANGRAST_BINARY(%, T)
SLANGRAST_BINARY(&, T)
SLANGRAST_BINARY(|, T)
SLANGRAST_BINARY(^, T)
SLANGRAST_BINARY(<<, T)
SLANGRAST_BINARY(>>, T)
SLANGRAST_BINARY(&&, T)
SLANGRAST_BINARY(||, T)
SLANGRAST_BINARY(==, bool)
SLANGRAST_BINARY(!=, bool)
SLANGRAST_BINARY(<, bool)
SLANGRAST_BINARY(>, bool)
SLANGRAST_BINARY(<=, bool)
SLANGRAST_BINARY(>=, bool)
SLANGRAST_UNARY(-)
SLANGRAST_UNARY(!)
SLANGRAST_UNARY(~)
#undef SLANGRAST_BINARY
#undef SLANGRAST_UNARY

template<typename T, int R, int C>
SLANGRAST_INLINE Matrix<T, R, C> _slang_select(
    const Matrix<bool, R, C>& condition,
    const Matrix<T, R, C>& a,
    const Matrix<T, R, C>& b)
{
    Matrix<T, R, C> result;
    for (int row = 0; row < R; row++)
        result.rows[row] = _slang_select(condition.rows[row], a.rows[row], b.rows[row]);
    return result;
}
