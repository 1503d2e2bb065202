//! The hash that tells whether a running container still fits its spec.

use k8s_openapi::api::core::v1::Container;

/// FNV-1a (32 bit) over upstream's rendering of the fields that may change in place: name and image.
/// Upstream's kubelet and this one therefore keep one another's containers.
pub fn container_hash(container: &Container) -> u64 {
    let json = serde_json::json!({
        "image": container.image.clone().unwrap_or_default(),
        "name": container.name,
    });
    // the form in which Go's dumper prints the JSON's bytes
    let bytes: Vec<String> = go_escape(&json.to_string()).bytes().map(|b| b.to_string()).collect();
    let text = format!("([]uint8)[{}]", bytes.join(" "));
    u64::from(fnv32(text.as_bytes()))
}

/// Go's encoder escapes what could end a script element.
fn go_escape(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_upstream_writes() {
        #[track_caller]
        fn check(name: &str, image: &str, expect: u64) {
            let c = Container { name: name.into(), image: Some(image.into()), ..Default::default() };
            assert_eq!(container_hash(&c), expect);
        }
        // both values stand in upstream's own tests
        check("test_container", "foo/image:v1", 0x8e45_cbd0);
        check("foo", "bar", 0x11a6_d6d6);
    }
}
