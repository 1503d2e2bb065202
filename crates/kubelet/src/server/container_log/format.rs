//! The lines of a container's log file (the CRI's log format) and what a client gets of them.

use bytes::BytesMut;
use meta::Time;

use super::{Options, Stream};

/// Digits of a second in the timestamps that clients get.
const FRACTION_DIGITS: usize = 9;

/// One line: `TIME STREAM TAG[:TAG...] CONTENT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// RFC 3339, in the zone of the runtime.
    pub time: &'a str,
    pub stream: Stream,
    /// With its line end; without one if the runtime split the line here.
    pub content: &'a [u8],
}

/// Reads a line; `None` if it is not of this format.
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = word(line)?;
    let (stream, rest) = word(rest)?;
    let (tags, content) = word(rest)?;
    let time = std::str::from_utf8(time).ok()?;
    time.parse::<Time>().ok()?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let content = if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    Some(Line { time, stream, content })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

/// Turns lines of the file into what was asked for.
#[derive(Debug)]
pub struct Writer {
    timestamps: bool,
    since: Option<Time>,
    stream: Stream,
    bytes_left: u64,
    at_line_start: bool,
}

impl Writer {
    pub fn new(options: &Options) -> Self {
        Self {
            timestamps: options.timestamps,
            since: options.since,
            stream: options.stream,
            bytes_left: options.limit_bytes.unwrap_or(u64::MAX),
            at_line_start: true,
        }
    }

    /// Appends a line, if it is wanted; whether the limit is reached. A malformed line is skipped.
    pub fn write(&mut self, line: &[u8], out: &mut BytesMut) -> bool {
        let Some(line) = parse_line(line) else { return false };
        let start = std::mem::replace(
            &mut self.at_line_start,
            line.content.is_empty() || line.content.ends_with(b"\n"),
        );
        let wanted = self.stream == Stream::All || self.stream == line.stream;
        if !wanted || self.since.is_some_and(|since| line.time.parse::<Time>().is_ok_and(|time| time < since))
        {
            return false;
        }
        if self.timestamps && start {
            self.put(fixed_width(line.time).as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(line.content, out);
        self.bytes_left == 0
    }

    fn put(&mut self, text: &[u8], out: &mut BytesMut) {
        let count = text.len().min(usize::try_from(self.bytes_left).unwrap_or(usize::MAX));
        out.extend_from_slice(&text[..count]);
        self.bytes_left -= count as u64;
    }
}

/// A timestamp with all nine digits of its second, so that lines sort as text.
fn fixed_width(time: &str) -> String {
    let zone = time.rfind(['Z', '+', '-']).filter(|at| *at >= 19).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<FRACTION_DIGITS$}{zone}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_refused() {
        #[track_caller]
        fn check(line: &str, expect: Option<(Stream, &str)>) {
            let found = parse_line(line.as_bytes());
            assert_eq!(found.map(|l| (l.stream, std::str::from_utf8(l.content).unwrap())), expect);
        }
        check(
            "2016-10-06T00:17:09.669794202Z stdout F log  content\n",
            Some((Stream::Stdout, "log  content\n")),
        );
        check("2016-10-06T00:17:09.669794202+02:00 stderr P:x part\n", Some((Stream::Stderr, "part")));
        check("2016-10-06T00:17:09Z stdout F \n", Some((Stream::Stdout, "\n")));
        check("2016-10-06T00:17:09Z other F x\n", None);
        check("yesterday stdout F x\n", None);
        check("{\"log\":\"x\"}\n", None);
    }

    #[test]
    fn timestamps_have_nine_digits_and_keep_their_zone() {
        assert_eq!(fixed_width("2016-10-06T00:17:09Z"), "2016-10-06T00:17:09.000000000Z");
        assert_eq!(fixed_width("2016-10-06T00:17:09.25+02:00"), "2016-10-06T00:17:09.250000000+02:00");
        assert_eq!(fixed_width("2016-10-06T00:17:09.25-02:00"), "2016-10-06T00:17:09.250000000-02:00");
    }
}
