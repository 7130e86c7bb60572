//! `!reset` and `!override`: a later file takes away what an earlier one said.

use crate::tree::{MergeTag, Node, Value};

/// Applies the merge tags of each tree to the trees before it, and removes what is only a tag.
pub(crate) fn apply(trees: &mut [Node]) {
    for index in 0..trees.len() {
        let (earlier, rest) = trees.split_at_mut(index);
        let mut path = Vec::new();
        let mut gone = Vec::new();
        collect(&mut rest[0], &mut path, &mut gone);
        for path in gone {
            for tree in earlier.iter_mut() {
                remove(tree, &path);
            }
        }
    }
}

/// Finds the tagged values below `node`; the ones that say `!reset` disappear.
fn collect(node: &mut Node, path: &mut Vec<String>, gone: &mut Vec<Vec<String>>) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    entries.retain_mut(|(key, value)| {
        path.push(key.text.clone());
        if value.merge.is_some() {
            gone.push(path.clone());
        }
        let stays = value.merge != Some(MergeTag::Reset);
        if stays {
            collect(value, path, gone);
        }
        path.pop();
        stays
    });
}

fn remove(node: &mut Node, path: &[String]) {
    let Value::Map(entries) = &mut node.value else {
        return;
    };
    match path {
        [] => {}
        [last] => entries.retain(|(key, _)| key.text != *last),
        [first, below @ ..] => {
            if let Some((_, value)) = entries.iter_mut().find(|(key, _)| key.text == *first) {
                remove(value, below);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn tags_take_away_what_earlier_files_said() {
        let tree = |text: &str| parse(text, 0).unwrap().root.unwrap();
        let mut trees = [
            tree("s: {a: {ports: [1], env: {x: 1}, keep: 1}}"),
            tree("s: {a: {ports: !reset [], env: !override {y: 2}}}"),
        ];
        apply(&mut trees);
        let first = trees[0].get("s").unwrap().get("a").unwrap();
        assert!(first.get("ports").is_none() && first.get("env").is_none());
        assert!(first.get("keep").is_some());
        let second = trees[1].get("s").unwrap().get("a").unwrap();
        assert!(second.get("ports").is_none());
        assert!(second.get("env").unwrap().get("y").is_some());
    }
}
