//! The difference between two texts, line by line.

/// Lines that are shown before and after a change.
const CONTEXT: usize = 3;
/// Maximum number of comparisons. A larger middle part is shown as removed and added as a whole.
const MAX_COMPARISONS: usize = 4_000_000;

/// A line of one of the two texts, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiffLine<'a> {
    /// In both texts.
    Same(&'a str),
    /// Only in the old text.
    Removed(&'a str),
    /// Only in the new text.
    Added(&'a str),
    /// Lines of both texts are left out.
    Gap,
}

/// The lines that differ, with the lines around them. Empty if the texts are equal.
pub fn diff<'a>(old: &'a str, new: &'a str) -> Vec<DiffLine<'a>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let prefix = common(old.iter(), new.iter());
    let suffix = common(old[prefix..].iter().rev(), new[prefix..].iter().rev());
    let (old_end, new_end) = (old.len() - suffix, new.len() - suffix);
    let mut lines: Vec<_> = old[..prefix]
        .iter()
        .map(|line| DiffLine::Same(line))
        .collect();
    lines.extend(diff_middle(&old[prefix..old_end], &new[prefix..new_end]));
    lines.extend(old[old_end..].iter().map(|line| DiffLine::Same(line)));
    with_context(&lines)
}

fn common<'a>(
    one: impl Iterator<Item = &'a &'a str>,
    other: impl Iterator<Item = &'a &'a str>,
) -> usize {
    one.zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

/// The difference by the longest common subsequence.
fn diff_middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<DiffLine<'a>> {
    let removed = |lines: &[&'a str]| lines.iter().copied().map(DiffLine::Removed).collect();
    let added = |lines: &[&'a str]| lines.iter().copied().map(DiffLine::Added).collect();
    if old.len().saturating_mul(new.len()) > MAX_COMPARISONS {
        let mut lines: Vec<_> = removed(old);
        let added: Vec<_> = added(new);
        lines.extend(added);
        return lines;
    }
    // The length of the longest common subsequence of the rest, for each pair of positions.
    let width = new.len() + 1;
    let mut lengths = vec![0_usize; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::with_capacity(old.len() + new.len());
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            lines.push(DiffLine::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            lines.push(DiffLine::Removed(old[i]));
            i += 1;
        } else {
            lines.push(DiffLine::Added(new[j]));
            j += 1;
        }
    }
    let rest: Vec<_> = removed(&old[i..]);
    lines.extend(rest);
    let rest: Vec<_> = added(&new[j..]);
    lines.extend(rest);
    lines
}

/// Leaves out lines that are far from a change.
fn with_context<'a>(lines: &[DiffLine<'a>]) -> Vec<DiffLine<'a>> {
    let is_change = |line: &DiffLine<'_>| !matches!(line, DiffLine::Same(_));
    let changes: Vec<usize> = (0..lines.len())
        .filter(|at| is_change(&lines[*at]))
        .collect();
    let is_near = |at: usize| {
        let next = changes.partition_point(|change| *change < at);
        let after = changes
            .get(next)
            .is_some_and(|change| change - at <= CONTEXT);
        let before = next.checked_sub(1).and_then(|before| changes.get(before));
        after || before.is_some_and(|change| at - change <= CONTEXT)
    };
    let mut shown = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if is_near(at) {
            shown.push(*line);
        } else if !shown.is_empty() && shown.last() != Some(&DiffLine::Gap) {
            shown.push(DiffLine::Gap);
        }
    }
    if shown.last() == Some(&DiffLine::Gap) {
        shown.pop();
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_is_shown_with_the_lines_around_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh\n";
        assert_eq!(
            diff(old, new),
            [
                DiffLine::Same("b"),
                DiffLine::Same("c"),
                DiffLine::Same("d"),
                DiffLine::Removed("e"),
                DiffLine::Added("E"),
                DiffLine::Same("f"),
                DiffLine::Same("g"),
                DiffLine::Same("h"),
            ]
        );
        assert_eq!(diff(old, old), []);
    }

    #[test]
    fn distant_changes_are_separated() {
        let text = |first: &str, last: &str| {
            let middle = "x\n".repeat(20);
            format!("{first}\n{middle}{last}\n")
        };
        let (old, new) = (text("a", "b"), text("c", "d"));
        let lines = diff(&old, &new);
        assert_eq!(
            lines.iter().filter(|line| **line == DiffLine::Gap).count(),
            1
        );
        assert_eq!(lines.len(), 2 + CONTEXT + 1 + CONTEXT + 2);
    }

    #[test]
    fn a_large_text_has_a_bounded_cost() {
        let numbers = |from: usize| {
            let lines: Vec<String> = (from..from + 5_000).map(|line| line.to_string()).collect();
            lines.join("\n")
        };
        assert_eq!(diff(&numbers(0), &numbers(10_000)).len(), 10_000);
    }

    proptest! {
        #[test]
        fn both_texts_can_be_read_from_the_difference(
            old in prop::collection::vec("[ab]", 0..8),
            new in prop::collection::vec("[ab]", 0..8),
        ) {
            let (old, new): (Vec<&str>, Vec<&str>) = (
                old.iter().map(String::as_str).collect(),
                new.iter().map(String::as_str).collect(),
            );
            let lines = diff_middle(&old, &new);
            let side = |is_left_out: fn(&DiffLine<'_>) -> bool| -> Vec<String> {
                let kept = lines.iter().filter(|line| !is_left_out(line));
                kept.map(|line| match line {
                    DiffLine::Same(text) | DiffLine::Removed(text) | DiffLine::Added(text) => {
                        (*text).to_owned()
                    }
                    DiffLine::Gap => String::new(),
                })
                .collect()
            };
            prop_assert_eq!(side(|line| matches!(line, DiffLine::Added(_))), old);
            prop_assert_eq!(side(|line| matches!(line, DiffLine::Removed(_))), new);
        }
    }
}
