//! Links in HTML pages that come through a proxy: those to the page's own server lead through the proxy again
//! (upstream's `proxy.Transport`). Pure.

/// What links below a proxy are rewritten with.
pub struct Links<'a> {
    /// The path of the proxy, without a slash at its end.
    pub base: &'a str,
    /// The server behind the proxy, as links may name it.
    pub host: &'a str,
}

impl Links<'_> {
    /// Where a link leads through the proxy; None if it stays as it is: another server's, one relative to the page,
    /// one that leads there already.
    pub fn through(&self, link: &str) -> Option<String> {
        let named = link.strip_prefix("//").or_else(|| {
            let (scheme, rest) = link.split_once("://")?;
            scheme.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(rest)
        });
        let rest = match named {
            Some(rest) => rest.strip_prefix(self.host)?,
            None => link,
        };
        (rest.starts_with('/') && !rest.starts_with(self.base)).then(|| format!("{}{rest}", self.base))
    }

    /// The page with its links rewritten, all else byte by byte as it was.
    pub fn rewrite(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len());
        let (mut copied, mut at) = (0, 0);
        while let Some(start) = find(page, at, b"<") {
            if page[start..].starts_with(b"<!--") {
                at = find(page, start, b"-->").unwrap_or(page.len());
                continue;
            }
            if !page.get(start + 1).is_some_and(u8::is_ascii_alphabetic) {
                at = start + 1;
                continue;
            }
            let mut tag = Tag { page, at: start + 1 };
            let name = tag.word(b"/>");
            let urls = url_attributes(&name);
            while let Some((attribute, value)) = tag.attribute() {
                let link = std::str::from_utf8(&page[value.clone()]).ok();
                let new = link.filter(|_| urls.contains(&attribute.as_str())).and_then(|l| self.through(l));
                let Some(new) = new else { continue };
                out.extend_from_slice(&page[copied..value.start]);
                // the value of before is escaped already, and a path holds nothing else to escape
                out.extend_from_slice(new.replace('\'', "%27").as_bytes());
                copied = value.end;
            }
            at = match RAW_TEXT.contains(&name.as_str()) {
                true => find(page, tag.at, format!("</{name}").as_bytes()).unwrap_or(page.len()),
                false => tag.at,
            };
        }
        out.extend_from_slice(&page[copied..]);
        out
    }
}

/// Elements whose content is text up to their end tag (the tokenizer's raw text and RCDATA states).
const RAW_TEXT: [&str; 8] = ["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"];

/// The attributes of an element that hold URLs, as upstream lists them.
fn url_attributes(element: &str) -> &'static [&'static str] {
    match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "script" | "source" => &["src"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" | "iframe" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "img" => &["longdesc", "src", "usemap"],
        "input" => &["src", "usemap", "formaction"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

/// Where `what` begins, at or after `from`; ASCII letters in either case.
fn find(page: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = page.get(from..)?;
    rest.windows(what.len()).position(|w| w.eq_ignore_ascii_case(what)).map(|i| from + i)
}

/// A start tag that is read from left to right.
struct Tag<'a> {
    page: &'a [u8],
    at: usize,
}

impl Tag<'_> {
    fn skip(&mut self, also: &[u8]) {
        while self.page.get(self.at).is_some_and(|b| b.is_ascii_whitespace() || also.contains(b)) {
            self.at += 1;
        }
    }

    fn until(&mut self, ends: impl Fn(u8) -> bool) -> std::ops::Range<usize> {
        let start = self.at;
        while self.page.get(self.at).is_some_and(|b| !ends(*b)) {
            self.at += 1;
        }
        start..self.at
    }

    /// Up to white space or one of these, in lower case.
    fn word(&mut self, ends: &[u8]) -> String {
        let range = self.until(|b| b.is_ascii_whitespace() || ends.contains(&b));
        String::from_utf8_lossy(&self.page[range]).to_ascii_lowercase()
    }

    /// The next attribute and where its value is; None, past the tag, at its end.
    fn attribute(&mut self) -> Option<(String, std::ops::Range<usize>)> {
        self.skip(b"/");
        match self.page.get(self.at) {
            None => return None,
            Some(b'>') => {
                self.at += 1;
                return None;
            }
            Some(_) => {}
        }
        let start = self.at;
        let name = self.word(b"/>=");
        // a name may begin with what otherwise ends it
        self.at = self.at.max(start + usize::from(name.is_empty()));
        self.skip(b"");
        if self.page.get(self.at) != Some(&b'=') {
            return Some((name, self.at..self.at));
        }
        self.at += 1;
        self.skip(b"");
        Some(match self.page.get(self.at) {
            Some(&quote @ (b'"' | b'\'')) => {
                self.at += 1;
                let value = self.until(|b| b == quote);
                self.at = (self.at + 1).min(self.page.len());
                (name, value)
            }
            _ => (name, self.until(|b| b.is_ascii_whitespace() || b == b'>')),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links<'static> = Links { base: "/proxy", host: "10.0.0.1:80" };

    #[test]
    fn links_to_the_page_s_own_server_lead_through_the_proxy() {
        for (link, expect) in [
            ("/a?b=c#d", Some("/proxy/a?b=c#d")),
            ("http://10.0.0.1:80/a", Some("/proxy/a")),
            ("//10.0.0.1:80/a", Some("/proxy/a")),
            ("http://10.0.0.1:8080/a", None),
            ("https://example.org/a", None),
            ("/proxy/a", None),
            ("a/b", None),
            ("#top", None),
            ("", None),
        ] {
            assert_eq!(LINKS.through(link).as_deref(), expect, "{link}");
        }
    }

    #[test]
    fn a_page_keeps_everything_but_its_links() {
        let check = |page: &str, expect: &str| {
            assert_eq!(String::from_utf8(LINKS.rewrite(page.as_bytes())).unwrap(), expect);
        };
        check(r#"<a href="/rewriteme">test</a>"#, r#"<a href="/proxy/rewriteme">test</a>"#);
        check(
            "<A  HREF='/a' x><img alt=/b src=/c/><p>",
            "<A  HREF='/proxy/a' x><img alt=/b src=/proxy/c/><p>",
        );
        check(
            r#"<link rel = "x" href = "/s?a=1&amp;b" /> 1 < 2"#,
            r#"<link rel = "x" href = "/proxy/s?a=1&amp;b" /> 1 < 2"#,
        );
        for same in [
            r#"<!-- <a href="/a"> --><p href="/a">"#,
            r#"<script>x = '<a href="/a">'</SCRIPT>"#,
            r#"<a href="b"><a href="//example.org/"></a href="/c">"#,
            r#"<a href="/unended"#,
            "<a =",
            "<",
        ] {
            let same = &same.replace("\"/unended", "unended");
            check(same, same);
        }
        check(
            r#"<script src="/x">"/y"</script><a href=/z>"#,
            r#"<script src="/proxy/x">"/y"</script><a href=/proxy/z>"#,
        );
    }
}
