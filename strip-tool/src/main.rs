//! `pageferry-strip`: see `--help`, and the library for what the commands do.

fn main() -> std::process::ExitCode {
    pageferry_strip::cli::main()
}
