//! Selectors in their query-string form, with upstream's grammar and messages
//! (`apimachinery/pkg/labels`, `apimachinery/pkg/fields`).

use crate::field::{FieldError, Json, Path};
use crate::selector::{FieldSelector, FieldTerm, LabelSelector, Operator, Requirement};
use crate::validation::{is_qualified_name, is_valid_label_value};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Identifier,
}

/// `=`, `==` and `!=` count as `In` and `NotIn` of one value.
const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

fn is_special(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

fn symbol(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

/// Tokens of the whole text, the last one being [`Token::End`].
fn scan(text: &str) -> Vec<(Token, String)> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        while at < bytes.len() && is_space(bytes[at]) {
            at += 1;
        }
        if at >= bytes.len() || bytes[at] == 0 {
            tokens.push((Token::End, String::new()));
            return tokens;
        }
        let start = at;
        if is_special(bytes[at]) {
            // The longest run that is a symbol: `==`, `!=` before `=`, `!`.
            let run = bytes[at..].iter().take_while(|b| is_special(**b)).count();
            let mut found = None;
            for len in 1..=run {
                match symbol(&text[start..start + len]) {
                    Some(token) => found = Some((token, len)),
                    None if found.is_some() => break,
                    None => {}
                }
            }
            match found {
                Some((token, len)) => {
                    at += len;
                    tokens.push((token, text[start..at].to_owned()));
                }
                None => {
                    at += run;
                    tokens.push((
                        Token::Error,
                        format!("error expected: keyword found '{}'", &text[start..at]),
                    ));
                }
            }
        } else {
            while at < bytes.len() && !is_special(bytes[at]) && !is_space(bytes[at]) && bytes[at] != 0 {
                at += 1;
            }
            let word = &text[start..at];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            tokens.push((token, word.to_owned()));
        }
    }
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn raw(&self) -> (Token, &str) {
        let last = self.tokens.len() - 1;
        let (token, text) = &self.tokens[self.at.min(last)];
        (*token, text)
    }

    /// The next token where `in` and `notin` are names, not operators.
    fn peek(&self) -> (Token, String) {
        let (token, text) = self.raw();
        let token = if matches!(token, Token::In | Token::NotIn) { Token::Identifier } else { token };
        (token, text.to_owned())
    }

    fn next(&mut self) -> (Token, String) {
        let got = self.peek();
        self.at += 1;
        got
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            let (token, text) = self.peek();
            match token {
                Token::Identifier | Token::Not => {
                    let r = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(r);
                    match self.next() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => {
                            let (token, text) = self.peek();
                            if !matches!(token, Token::Identifier | Token::Not) {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        }
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => return Ok(requirements),
                _ => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let faults = is_qualified_name(&key);
        if !faults.is_empty() {
            return Err(FieldError::invalid(&Path::default(), &key, faults.join("; ")).to_string());
        }
        let bare = matches!(self.peek().0, Token::End | Token::Comma);
        if negated || bare {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(Requirement { key, operator, values: Vec::new() });
        }
        let (token, text) = self.raw();
        let text = text.to_owned();
        self.at += 1;
        let operator = match token {
            Token::In | Token::Equals | Token::DoubleEquals => Operator::In,
            Token::NotIn | Token::NotEquals => Operator::NotIn,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{text}', expected: {BINARY_OPERATORS}")),
        };
        let mut values =
            if matches!(token, Token::In | Token::NotIn) { self.values()? } else { self.value()? };
        values.sort();
        values.dedup();
        Requirement { key, operator, values }.checked()
    }

    /// `(a,b,)`
    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let (token, text) = self.peek();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.identifiers()?;
                match self.next() {
                    (Token::Close, _) => Ok(values),
                    _ => Err(format!("found '{text}', expected: ')'")),
                }
            }
            Token::Close => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            _ => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut values = Vec::new();
        loop {
            match self.next() {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn value(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next() {
            (Token::Identifier, text) => Ok(vec![text]),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

impl Requirement {
    /// The requirement, if its key and values may stand in one (upstream's `labels.NewRequirement`).
    pub fn checked(self) -> Result<Self, String> {
        let r = self;
        let mut errors = Vec::new();
        let faults = is_qualified_name(&r.key);
        if !faults.is_empty() {
            errors.push(FieldError::invalid(&Path::new("key"), &r.key, faults.join("; ")));
        }
        let path = Path::new("values");
        match r.operator {
            Operator::In | Operator::NotIn if r.values.is_empty() => errors.push(FieldError::invalid(
                &path,
                Json(&r.values),
                "for 'in', 'notin' operators, values set can't be empty",
            )),
            Operator::Exists | Operator::DoesNotExist if !r.values.is_empty() => {
                errors.push(FieldError::invalid(
                    &path,
                    Json(&r.values),
                    "values set must be empty for exists and does not exist",
                ))
            }
            Operator::GreaterThan | Operator::LessThan => {
                if r.values.len() != 1 {
                    errors.push(FieldError::invalid(
                        &path,
                        Json(&r.values),
                        "for 'Gt', 'Lt' operators, exactly one value is required",
                    ));
                }
                for (i, value) in r.values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    errors.push(FieldError::invalid(
                        &path.index(i),
                        value,
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ));
                }
            }
            _ => {}
        }
        for (i, value) in r.values.iter().enumerate() {
            let faults = is_valid_label_value(value);
            if !faults.is_empty() {
                errors.push(FieldError::invalid(&path.index(i).key(&r.key), value, faults.join("; ")));
            }
        }
        match errors.as_slice() {
            [] => Ok(r),
            [one] => Err(one.to_string()),
            many => {
                let list: Vec<String> = many.iter().map(ToString::to_string).collect();
                Err(format!("[{}]", list.join(", ")))
            }
        }
    }
}

impl LabelSelector {
    /// The query-string form: `app=web,tier in (a,b),!old`. Errors are upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser { tokens: scan(text), at: 0 }.selector()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }
}

/// The query-string form, requirements in the order of their keys.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Requirement> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (i, r) in sorted.into_iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (self.operator, self.values.as_slice()) {
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::In, [one]) => write!(f, "{key}={one}"),
            (Operator::NotIn, [one]) => write!(f, "{key}!={one}"),
            (Operator::GreaterThan, values) => write!(f, "{key}>{}", values.join(",")),
            (Operator::LessThan, values) => write!(f, "{key}<{}", values.join(",")),
            (operator, values) => {
                let word = if operator == Operator::In { "in" } else { "notin" };
                let mut values = values.to_vec();
                values.sort();
                write!(f, "{key} {word} ({})", values.join(","))
            }
        }
    }
}

impl FieldSelector {
    /// `metadata.name=a,status.phase!=Running`; `\` escapes `,`, `=` and itself in values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let at = part.find(['=', '!']).and_then(|first| {
                (first..part.len()).find(|i| part[*i..].starts_with('=') || part[*i..].starts_with("!="))
            });
            let Some(at) = at else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let rest = &part[at..];
            let (negated, value) = match rest.strip_prefix("!=") {
                Some(value) => (true, value),
                None => (false, rest.strip_prefix("==").or(rest.strip_prefix('=')).unwrap_or(rest)),
            };
            terms.push(FieldTerm { path: part[..at].to_owned(), value: unescaped(value)?, negated });
        }
        Ok(Self { terms })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{operator}{value}", term.path)?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescaped(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors_parse_to_their_canonical_text() {
        for (input, expect) in [
            ("", ""),
            ("app=web", "app=web"),
            ("app == web , tier in (b,a)", "app=web,tier in (a,b)"),
            ("!old,new", "new,!old"),
            ("a!=b", "a!=b"),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z!="),
            ("n>5,m<3", "m<3,n>5"),
            ("in in (in)", "in=in"),
            ("a=", "a="),
        ] {
            assert_eq!(LabelSelector::parse(input).map(|s| s.to_string()).as_deref(), Ok(expect), "{input}");
        }
    }

    #[test]
    fn refusals_are_upstreams_words() {
        for (input, expect) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a=b$",
                "unable to parse requirement: values[0][a]: Invalid value: \"b$\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
        ] {
            assert_eq!(LabelSelector::parse(input).map(|s| s.to_string()), Err(expect.to_owned()), "{input}");
        }
    }

    #[test]
    fn field_selectors() {
        for (input, expect) in [
            ("", Ok("")),
            ("metadata.name=a", Ok("metadata.name=a")),
            ("b!=1,a==2", Ok("a=2,b!=1")),
            (r"a=x\,y", Ok(r"a=x\,y")),
            ("a", Err("invalid selector: 'a'; can't understand 'a'")),
            (r"a=\x", Err(r"invalid field selector: invalid escape sequence: \x")),
        ] {
            let got = FieldSelector::parse(input).map(|s| s.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "{input}");
        }
    }
}
