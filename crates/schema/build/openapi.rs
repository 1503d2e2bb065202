//! The descriptions of the API, taken from the schemas of `k8s-openapi` and compressed.
//!
//! The text is a list of records, one for each type in the order of the tables and then one for each special
//! definition: the description of the type and of its fields in their order. Records end with `\x1e`, strings
//! with `\x1f`.

use crate::facts::Type;
use crate::roots;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use schemars::SchemaGenerator;
use serde_json::Value;
use std::io::Write;

/// Definitions that are no structs, in the order of `SPECIAL` in `src/openapi/definitions.rs`.
const SPECIAL: &[&str] = &[
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
];

/// The compressed records.
pub fn render(types: &[Type]) -> std::io::Result<Vec<u8>> {
    let mut generator = SchemaGenerator::default();
    roots::define(&mut generator);
    let definitions = generator.take_definitions(false);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let mut write = |text: &str, end: u8| {
        encoder.write_all(text.as_bytes())?;
        encoder.write_all(&[end])
    };
    for ty in types {
        let schema = definitions.get(&ty.name).unwrap_or(&Value::Null);
        write(schema["description"].as_str().unwrap_or_default(), 0x1f)?;
        for field in &ty.fields {
            write(schema["properties"][&field.json]["description"].as_str().unwrap_or_default(), 0x1f)?;
        }
        write("", 0x1e)?;
    }
    for name in SPECIAL {
        write(definitions.get(*name).and_then(|s| s["description"].as_str()).unwrap_or_default(), 0x1f)?;
        write("", 0x1e)?;
    }
    encoder.finish()
}
