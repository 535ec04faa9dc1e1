//! Finds or fetches MLX and mlx-c, builds libmlxc once into the cache, and writes the bindings.

#[path = "build/bindings.rs"]
mod bindings;
#[path = "build/cache.rs"]
mod cache;
#[path = "build/digests.rs"]
mod digests;
#[path = "build/env.rs"]
mod env;
#[path = "build/fetch.rs"]
mod fetch;
#[path = "build/native.rs"]
mod native;
#[path = "build/pins.rs"]
mod pins;
#[path = "build/sources.rs"]
mod sources;

type Result<T> = std::result::Result<T, String>;

fn main() {
    if let Err(message) = build() {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    for path in ["build.rs", "build", "native", "vendor"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let pins = pins::Pins::read()?;
    pins.announce();

    if env::var("DOCS_RS").is_some() {
        return bindings::copy_committed();
    }

    let sources = sources::Sources::find(&pins)?;
    let library = native::build(&sources, &pins)?;
    bindings::generate(&sources)?;
    library.link(&sources);
    Ok(())
}
