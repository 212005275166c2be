// Threads that run together and exchange values.

constexpr int WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;
