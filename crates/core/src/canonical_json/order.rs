//! Putting the members of objects into order after everything is written.

use std::ops::Range;

/// The objects of a written text whose members must change places.
///
/// Remembered rather than done at once: moving an outer object's bytes after an inner one's would copy a deeply nested
/// text once per level.
#[derive(Default)]
pub(super) struct Order {
    moves: Vec<Move>,
    /// The members of all moves, each move's in their right order.
    members: Vec<Range<usize>>,
}

/// The inside of an object, and which members belong there.
struct Move {
    inside: Range<usize>,
    members: Range<usize>,
}

impl Order {
    /// Notes that `inside` must hold `members`, in this order and with commas between them. Inner objects come first.
    pub(super) fn rearrange(&mut self, inside: Range<usize>, members: impl Iterator<Item = Range<usize>>) {
        let first = self.members.len();
        self.members.extend(members);
        self.moves.push(Move { inside, members: first..self.members.len() });
    }

    /// The text in its right order; the same text where there is nothing to move.
    pub(super) fn apply(mut self, text: Vec<u8>) -> Vec<u8> {
        if self.moves.is_empty() {
            return text;
        }
        // Outer objects begin before inner ones: now each is found by where it begins.
        self.moves.sort_unstable_by_key(|one| one.inside.start);
        let mut ordered = Vec::with_capacity(text.len());
        self.copy(&text, 0..text.len(), &mut ordered);
        ordered
    }

    /// Copies a span with every object inside it in order. Recurses as deep as objects nest, which the parser bounds.
    fn copy(&self, text: &[u8], span: Range<usize>, ordered: &mut Vec<u8>) {
        let mut at = span.start;
        loop {
            // A brace stands before every inside, so none begins where a span does, but for the object whose first
            // member this span is.
            let next = self.moves.partition_point(|one| one.inside.start <= at);
            let Some(one) = self.moves.get(next).filter(|one| one.inside.start < span.end) else { break };
            ordered.extend_from_slice(&text[at..one.inside.start]);
            for (count, member) in self.members[one.members.clone()].iter().enumerate() {
                if count > 0 {
                    ordered.push(b',');
                }
                self.copy(text, member.clone(), ordered);
            }
            at = one.inside.end;
        }
        ordered.extend_from_slice(&text[at..span.end]);
    }
}
