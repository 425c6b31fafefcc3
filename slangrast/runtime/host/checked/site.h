// Where in a shader something happens. A function that wants to know takes `Site site = Site::here()` as its last
// parameter: the default is evaluated where it is called, and #line has given that place its line of the .slang file.
#pragma once

namespace slangrast
{

struct Site
{
    const char* file;
    int line;

    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
    // A shader's file has an absolute path. Slang's own library has bare names, such as hlsl.meta.slang.
    constexpr bool is_in_shader() const { return file[0] == '/'; }
};

// The line of the shader that called the function of Slang's library in which this thread is.
static thread_local Site caller_site = {"", 0};

// Stands in every function of Slang's library, for as long as it runs.
struct Caller
{
    Site before;

    SLANGRAST_METHOD Caller(Site site) : before(caller_site)
    {
        if (site.is_in_shader())
            caller_site = site;
    }
    SLANGRAST_METHOD ~Caller() { caller_site = before; }
};

SLANGRAST_INLINE Site in_shader(Site site) { return site.is_in_shader() ? site : caller_site; }

} // namespace slangrast
