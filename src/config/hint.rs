//! The nearest right word.

/// Bytes of a word that may be a slip of the hand.
const LONGEST: usize = 128;

/// What `word` was probably meant to be: the same but for case, dashes and underscores, or few letters away.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // What is so long was not meant to be any of them, and comparing takes the product of the lengths.
    if word.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(word);
    let longest = (wanted.chars().count() / 3).clamp(1, 3);
    let mut best = None;
    for candidate in known {
        let other = plain(candidate);
        let distance = strsim::osa_distance(&wanted, &other);
        // A third of the letters may differ; but of a word of two letters that would be any word of two.
        let close = distance == 0 || (distance <= longest && wanted.chars().count() > 2);
        // "warning" for "warn", "primary" for "primaries".
        let common = wanted.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let begins = common >= 4 && (common == wanted.len().min(other.len()) || common * 3 >= other.len() * 2);
        let cost = if close { distance } else { longest + distance };
        if (close || begins) && best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else what there is to choose from.
pub(super) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone, what: &str) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut known: Vec<&str> = known.into_iter().collect();
            let left_out = known.len().saturating_sub(16);
            known.truncate(16);
            let more = if left_out > 0 { format!(" and {left_out} more") } else { String::new() };
            format!("{what}: {}{more}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_any_length_takes_no_time() {
        assert_eq!(nearest(&"Q".repeat(60_000), std::iter::repeat_n("us-east", 100_000)), None);
    }

    #[test]
    fn near_words_only() {
        let known = ["address", "weight", "primaries"];
        assert_eq!(nearest("adress", known), Some("address"));
        assert_eq!(nearest("PRIMARIES", known), Some("primaries"));
        assert_eq!(nearest("primary", known), Some("primaries"));
        assert_eq!(nearest("warning", ["error", "warn"]), Some("warn"));
        assert_eq!(nearest("least-conn", ["least-request", "random"]), None);
        assert_eq!(nearest("wieght", known), Some("weight"));
        assert_eq!(nearest("bind", known), None);
        assert_eq!(nearest("on", ["no"]), None);
        assert_eq!(nearest("max-requests", ["max_requests"]), Some("max_requests"));
        assert_eq!(suggest("x", ["a", "b"], "known keys"), "known keys: a, b");
    }
}
