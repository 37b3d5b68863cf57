//! The words that this project does not use, and the field's word for each: `words.txt`.
//!
//! A text is read as words: `told_of_future`, `ToldOfFuture` and "told of future" are the same
//! three. A line of the list is one or more words, forms of the same word parted by `/`, then `->`
//! and what to write instead. A line that begins with `=` is a name that others call (a key, a
//! span, a table) and therefore stays: its text is not searched.

use std::collections::BTreeMap;

use crate::source::sources;

/// One line of the list: each form as its words, and what to write.
struct Entry {
    forms: Vec<Vec<String>>,
    write: &'static str,
}

const LIST: &str = include_str!("words.txt");

fn entries() -> Vec<Entry> {
    let lines = LIST
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '=']));
    lines
        .map(|line| {
            let (forms, write) = line.split_once("->").expect("`words -> what to write`");
            let forms = forms
                .split('/')
                .map(|form| words(form).map(|(_, word)| word).collect())
                .collect();
            Entry {
                forms,
                write: write.trim(),
            }
        })
        .collect()
}

/// The words of a text in lower case, each with the byte where it starts.
fn words(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut within = false;
    let mut last_was_lower = false;
    for (at, c) in text.char_indices() {
        if !c.is_alphanumeric() {
            within = false;
            continue;
        }
        if !within || (last_was_lower && c.is_uppercase()) {
            found.push((at, String::new()));
        }
        let (_, word) = found.last_mut().expect("a word was begun");
        word.extend(c.to_lowercase());
        within = true;
        last_was_lower = c.is_lowercase();
    }
    found.into_iter()
}

#[test]
fn texts_use_the_words_of_the_field() {
    let entries = entries();
    let mut by_first: BTreeMap<&str, Vec<(&[String], &str)>> = BTreeMap::new();
    for entry in &entries {
        for form in &entry.forms {
            by_first
                .entry(&form[0])
                .or_default()
                .push((form, entry.write));
        }
    }
    let kept: Vec<&str> = LIST
        .lines()
        .filter_map(|line| line.strip_prefix("= "))
        .collect();
    let mut wrong = Vec::new();
    for mut source in sources(&[".rs", ".md", ".proto", "surge"]) {
        if source.path.starts_with("cli/tests/house/words") {
            continue;
        }
        for name in &kept {
            source.text = source.text.replace(name, &" ".repeat(name.len()));
        }
        let words: Vec<(usize, String)> = words(&source.text).collect();
        for (at, (start, first)) in words.iter().enumerate() {
            for (form, write) in by_first.get(first.as_str()).into_iter().flatten() {
                let here = words[at..].iter().map(|(_, word)| word).take(form.len());
                if here.eq(form.iter()) {
                    let line = source.text[..*start].matches('\n').count() + 1;
                    let form = form.join(" ");
                    wrong.push(format!("{}:{line}: \"{form}\": write {write}", source.path));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} places\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn words_are_found_in_any_spelling() {
    for text in [
        "sign_of_life",
        "SignOfLife",
        "a sign of life.",
        "sign-of-\n// life",
    ] {
        let found: Vec<String> = words(text).map(|(_, word)| word).collect();
        assert!(
            found
                .windows(3)
                .any(|three| three == ["sign", "of", "life"]),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn word_list_names_what_to_write() {
    assert!(
        entries()
            .iter()
            .all(|entry| !entry.write.is_empty() && !entry.forms.is_empty())
    );
}
