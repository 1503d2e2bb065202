//! Get and list: consistency, pages, forms.

use super::harness::{Api, message, version};
use http_body_util::BodyExt;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn with_maps(n: usize) -> Api {
    let api = Api::new().await;
    for i in 0..n {
        api.created(MAPS, &json!({"metadata": {"name": format!("m{i}"), "labels": {"i": i.to_string()}}}))
            .await;
    }
    api
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn a_read_sees_what_was_written_before_it() {
    let api = Api::new().await;
    for i in 0..50 {
        let made = api.created(MAPS, &json!({"metadata": {"name": format!("m{i}")}})).await;
        let (code, got) = api.get(&format!("{MAPS}/m{i}")).await;
        assert_eq!((code, &got), (200, &made));
        let (_, list) = api.get(MAPS).await;
        assert_eq!(names(&list).len(), i + 1);
        assert!(version(&list) >= version(&made));
    }
    assert_eq!(
        message(&api.get(&format!("{MAPS}/none")).await),
        (404, "NotFound", "configmaps \"none\" not found")
    );
}

#[tokio::test]
async fn pages_of_a_list_show_one_state_whatever_is_written() {
    let api = with_maps(5).await;
    let (_, first) = api.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["m0", "m1"], &json!(3)));
    api.created(MAPS, &json!({"metadata": {"name": "m2a"}})).await;
    api.delete(&format!("{MAPS}/m3")).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let (_, second) = api.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(version(&second), version(&first));
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let (_, third) = api.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["m4"], None));

    let refused = api.get(&format!("{MAPS}?continue=xyz")).await;
    assert_eq!((refused.0, &refused.1["reason"]), (400, &json!("BadRequest")));
    let (_, exact) =
        api.get(&format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", version(&first))).await;
    assert_eq!(names(&exact), ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn a_list_whose_revision_is_compacted_goes_on_at_the_newest_state_if_its_client_wants_that() {
    let api = with_maps(3).await;
    let (_, first) = api.get(&format!("{MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().expect("a token");
    // a resource that rests is no exception: whether a token still holds must not depend on who writes what
    let later = api.created("/api/v1/namespaces/a/secrets", &json!({"metadata": {"name": "s"}})).await;
    store::Store::compact(&*api.store, store::Revision(version(&later))).await.expect("a compaction");
    let (code, gone) = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    let token = gone["metadata"]["continue"].as_str().expect("a token");
    let (code, second) = api.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, names(&second)), (200, vec!["m1"]));
    assert!(version(&second) > version(&first));
}

#[tokio::test]
async fn selectors_select() {
    let api = with_maps(4).await;
    api.created("/api/v1/namespaces/b/configmaps", &json!({"metadata": {"name": "m1"}})).await;
    let check = async |query: &str, expect: &[&str]| {
        let (code, list) = api.get(&format!("/api/v1/configmaps{query}")).await;
        assert_eq!((code, names(&list)), (200, expect.to_vec()), "{query}");
    };
    check("", &["m0", "m1", "m2", "m3", "m1"]).await;
    check("?labelSelector=i%20in%20(1,3)", &["m1", "m3"]).await;
    check("?labelSelector=!i", &["m1"]).await;
    check("?fieldSelector=metadata.name%3Dm1", &["m1", "m1"]).await;
    check("?fieldSelector=metadata.namespace!%3Da", &["m1"]).await;
    let refused = api.get("/api/v1/configmaps?fieldSelector=spec.x%3D1").await;
    assert_eq!(refused.0, 400);
}

#[tokio::test]
async fn objects_come_as_tables_and_as_metadata() {
    let api = with_maps(2).await;
    let send = async |accept: &str| {
        let response = api.raw("GET", MAPS, &[("accept", accept)], "").await;
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    let table = send("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!((&table["kind"], &table["rows"][1]["cells"][0]), (&json!("Table"), &json!("m1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["labels"]["i"], "0");
    let partial = send("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&partial), ["m0", "m1"]);
}

#[tokio::test]
async fn lists_are_the_same_in_json_protobuf_and_gzip() {
    let api = Api::new().await;
    let data = "x".repeat(3000);
    for i in 0..60 {
        api.created(MAPS, &json!({"metadata": {"name": format!("m{i:02}")}, "data": {"a": data}})).await;
    }
    let fetch = async |headers: &[(&str, &str)]| {
        let response = api.raw("GET", MAPS, headers, "").await;
        let (parts, body) = response.into_parts();
        let hint = http_body::Body::size_hint(&body).exact();
        let bytes = body.collect().await.expect("a body").to_bytes();
        if let Some(length) = hint {
            assert_eq!(length, bytes.len() as u64);
        }
        (parts.headers, bytes)
    };
    let (_, plain) = fetch(&[]).await;
    let list: Value = serde_json::from_slice(&plain).expect("JSON");
    assert_eq!((list["kind"].as_str(), names(&list).len()), (Some("ConfigMapList"), 60));
    assert!(list["items"][0].get("kind").is_none(), "items of a list carry no type");

    let (headers, packed) = fetch(&[("accept-encoding", "gzip")]).await;
    assert_eq!(headers["content-encoding"], "gzip");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).expect("gzip");
    assert_eq!(unpacked, plain);

    let (headers, proto) = fetch(&[("accept", "application/vnd.kubernetes.protobuf")]).await;
    assert_eq!(headers["content-type"], "application/vnd.kubernetes.protobuf");
    let (_, kind, json) = schema::proto::to_json(&proto).expect("an envelope");
    let list: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((kind.as_str(), names(&list).len()), ("ConfigMapList", 60));
}
