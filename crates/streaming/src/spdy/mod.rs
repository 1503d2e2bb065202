//! SPDY/3.1 as Kubernetes speaks it: many streams over one connection, each with headers.
//!
//! Kubernetes' implementation (moby/spdystream) neither sends nor obeys window updates, so this one
//! does not wait for them either; TCP's own flow control and bounded queues hold back a fast sender.

mod connection;
mod dictionary;
mod frame;

pub use connection::{Connection, SpdyError, Stream, StreamReader, StreamWriter};
pub use frame::{
    Frame, FrameError, Framer, Headers, MAX_CONTROL_FRAME_BYTES, MAX_DATA_BYTES, Reset, read_frame,
};
