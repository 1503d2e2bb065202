//! Turns `data/v1.36.types` into static tables and, with the descriptions of `k8s-openapi`, into the compressed
//! definitions of the OpenAPI documents. Nothing of it is parsed when the server starts.

mod facts;
mod openapi;
mod roots;
mod tables;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=data/v1.36.types");
    let text = std::fs::read_to_string("data/v1.36.types")?;
    let types = facts::parse(&text)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("tables.rs"), tables::render(&types))?;
    std::fs::write(out.join("definitions.deflate"), openapi::render(&types)?)?;
    Ok(())
}
