//! The sources as the rules read them: every file of the repository, and of a Rust file also its
//! code alone.
//!
//! Rust is read as text, without a parser: rustfmt makes its layout certain (items of a module
//! start in the first column), and what remains to be known is where comments, strings and tests
//! are.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
pub(crate) struct Source {
    /// Where it is, from the root of the repository, with `/` between folders.
    pub(crate) path: String,
    /// What it says.
    pub(crate) text: String,
    /// For Rust: the text with comments, strings and `#[cfg(test)]` items blanked, line by line the
    /// same.
    pub(crate) code: String,
}

impl Source {
    /// Whether the file belongs to a crate's tests, not to what the crate exports.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }
}

/// The folder that holds the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file under the root with one of these endings, in the order of their paths.
pub(crate) fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), "", endings, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.len() > 10,
        "the workspace is not at {}",
        root().display()
    );
    found
}

fn collect(folder: &Path, prefix: &str, endings: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let generated = name.starts_with('.') || name == "target" || name == "report";
            if !generated {
                collect(&entry.path(), &format!("{path}/"), endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(entry.path()).expect("a readable text file");
            let code = if name.ends_with(".rs") {
                code_of(&text)
            } else {
                String::new()
            };
            found.push(Source { path, text, code });
        }
    }
}

/// The code of a Rust file: comments, the inside of strings and `#[cfg(test)]` items become spaces.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = without_comments_and_strings(text).into_bytes();
    while let Some(start) = find(&code, b"#[cfg(test)]") {
        let from = start + b"#[cfg(test)]".len();
        let end = end_of_item(&code, from);
        blank(&mut code[start..end]);
    }
    String::from_utf8(code).expect("only ASCII was blanked")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Where the item that starts at `from` ends: behind its `;`, or behind its closing brace.
fn end_of_item(code: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + find(rest, b"\n").unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + find(rest, b"*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(bytes, at) {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = at + 2 + hashes;
            body + find(&bytes[body..], close.as_bytes()).map_or(0, |end| end + close.len())
        } else if rest[0] == b'"' {
            end_of_quoted(bytes, at, b'"')
        } else if rest[0] == b'\'' && is_char(rest) {
            end_of_quoted(bytes, at, b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(&mut code[at..end]);
        at = end;
    }
    // Letters beyond ASCII stand in comments and strings only, so that whole characters were
    // blanked.
    String::from_utf8(code).expect("whole characters")
}

/// The number of hashes of the raw string that starts here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let within_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if bytes[at] != b'r' || (within_word && bytes[at - 1] != b'b') {
        return None;
    }
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

/// Whether a quotation mark opens a character rather than a lifetime.
fn is_char(rest: &[u8]) -> bool {
    let closes = |within: usize| rest.iter().skip(2).take(within).any(|byte| *byte == b'\'');
    match rest.get(1) {
        Some(b'\\') => true,
        Some(byte) if byte.is_ascii() => rest.get(2) == Some(&b'\''),
        Some(_) => closes(4),
        None => false,
    }
}

fn end_of_quoted(bytes: &[u8], start: usize, mark: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != mark {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

#[test]
fn code_has_no_comments_strings_or_tests() {
    let text = r##"use a; // use b;
let s = "x::y"; let c = '"'; let r = r#"a"b"#; fn f<'a>() {}
#[cfg(test)]
mod tests { use super::*; }
fn g() {}
"##;
    let code = code_of(text);
    assert!(
        code.contains("use a;") && code.contains("fn f<'a>() {}") && code.contains("fn g() {}")
    );
    for gone in ["use b", "x::y", "a\"b", "super"] {
        assert!(!code.contains(gone), "{gone}: {code}");
    }
    assert_eq!(code.lines().count(), text.lines().count());
}
