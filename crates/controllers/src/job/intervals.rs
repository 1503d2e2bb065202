//! Sets of completion indexes in their short form: `1,3-5,7`.

use std::fmt;

/// Intervals in order, both ends included, none next to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// What of a list lies below `completions`; parts that are no intervals are passed over.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut all = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            if first >= completions {
                break;
            }
            all.push(first, last.min(completions - 1));
        }
        all
    }

    /// Of indexes in order.
    pub fn of(indexes: impl IntoIterator<Item = i32>) -> Self {
        let mut all = Self::default();
        indexes.into_iter().for_each(|n| all.push(n, n));
        all
    }

    /// Appends an interval that does not begin before the last one.
    fn push(&mut self, first: i32, last: i32) {
        match self.0.last_mut() {
            Some(end) if first <= end.1 + 1 => end.1 = end.1.max(last),
            _ => self.0.push((first, last)),
        }
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut both: Vec<(i32, i32)> = self.0.iter().chain(&other.0).copied().collect();
        both.sort_unstable();
        let mut all = Self::default();
        both.into_iter().for_each(|(first, last)| all.push(first, last));
        all
    }

    pub fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub fn count(&self) -> i64 {
        self.0.iter().map(|(first, last)| i64::from(last - first) + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indexes both have.
    pub fn shared(&self, other: &Self) -> i64 {
        let (mut i, mut j, mut shared) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            shared += i64::from((a.1.min(b.1) - a.0.max(b.0) + 1).max(0));
            if a.1 < b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        shared
    }

    /// The first so many indexes below `completions` that are not in the set.
    pub fn absent(&self, how_many: usize, completions: i32) -> Vec<i32> {
        let mut found = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let until = first.min(completions);
            found.extend((candidate..until).take(how_many - found.len()));
            candidate = candidate.max(last.saturating_add(1));
        }
        found
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_joined_counted_and_written_short() {
        let set = Indexes::parse("1,3-5,x,9-20,30", 12);
        assert_eq!((set.to_string().as_str(), set.count()), ("1,3-5,9-11", 7));
        assert_eq!(set.union(&Indexes::of([0, 2, 7])).to_string(), "0-5,7,9-11");
        assert_eq!(Indexes::of([3, 4, 6]).to_string(), "3,4,6");
        assert_eq!(
            [0, 1, 4, 5, 6, 11, 12].map(|n| set.has(n)),
            [false, true, true, true, false, true, false]
        );
        assert_eq!(set.absent(4, 12), [0, 2, 6, 7]);
        assert_eq!(set.absent(9, 10), [0, 2, 6, 7, 8]);
        assert_eq!(Indexes::default().absent(2, 12), [0, 1]);
        assert_eq!(set.shared(&Indexes::parse("0-3,5-9", 12)), 4);
    }
}
