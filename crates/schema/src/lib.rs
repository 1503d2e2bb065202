//! The API as data: types, protobuf field numbers, list-map keys, OpenAPI documents, transcoding.
