//! Prints every definition: `cargo run -p schema --example definitions -- v2|v3`, to compare with upstream's document.

fn main() {
    let definitions = match std::env::args().nth(1).as_deref() {
        Some("v3") => {
            let names: Vec<&str> = schema::all().iter().map(|ty| ty.name).collect();
            schema::openapi::v3_components(&names)
        }
        _ => schema::openapi::v2_definitions(),
    };
    println!("{definitions}");
}
