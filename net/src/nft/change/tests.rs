use super::*;
use crate::nft::Turn;
use crate::nft::seen::SeenChain;
use crate::nft::table::Bytes;

fn table(slots: u32, to: &str) -> Table {
    let mut table = Table::new(Family::Inet, "sk-svc");
    let mut map = Set::map("be4", &[Field::Ip4, Field::Number], &[Field::Ip4]);
    let vip = "10.0.1.2".parse().unwrap();
    for slot in 0..slots {
        map.put(
            Bytes::new().ip(vip).number(slot),
            Bytes::new().ip(to.parse().unwrap()),
        );
    }
    table.set(map);
    let mut vips = Set::verdicts("vip4", &[Field::Ip4]);
    vips.goto(Bytes::new().ip(vip), "svc-1");
    table.set(vips);
    let ip = crate::nft::rule::Ip::V4;
    let rules = vec![Rule::new().dnat_by_destination(ip, Turn::InOrder, slots, "be4")];
    table.chain(Chain::plain("svc-1", rules));
    let rules = vec![Rule::new().follow_destination(ip, "vip4")];
    table.chain(Chain::base("nat-out", Hook::nat_output(), rules));
    table
}

/// What a dump shows after a table was made.
fn seen(table: &Table) -> SeenTable {
    let sets = table.sets.iter().map(|set| {
        let found = SeenSet {
            key_length: fields_length(&set.key),
            value_length: value_length(set),
            elements: set.elements.clone(),
        };
        (set.name.clone(), found)
    });
    let chains = table.chains.iter().map(|chain| {
        let hook = chain.hook.as_ref().map(|hook| SeenHook {
            kind: hook.kind.into(),
            number: hook.number,
            priority: hook.priority,
            devices: hook.device.clone().into_iter().collect(),
            drops: false,
        });
        let rules = chain
            .rules
            .iter()
            .map(|rule| Some(fingerprint(rule)))
            .collect();
        (chain.name.clone(), SeenChain { hook, rules })
    });
    SeenTable {
        sets: sets.collect(),
        chains: chains.collect(),
    }
}

fn names(ops: &[Op<'_>]) -> Vec<String> {
    let verb = |op: &Op<'_>| {
        format!("{op:?}")
            .split(['(', '{'])
            .next()
            .unwrap()
            .to_owned()
    };
    ops.iter().map(verb).collect()
}

#[test]
fn an_equal_table_is_left_alone() {
    let wanted = table(3, "10.0.1.5");
    assert_eq!(diff(&wanted, Some(&seen(&wanted))), []);
}

#[test]
fn a_swapped_backend_touches_elements_only() {
    let before = seen(&table(2, "10.0.1.5"));
    let ops = diff(&table(2, "10.0.1.6"), Some(&before))
        .iter()
        .map(Op::object)
        .collect::<Vec<_>>();
    assert_eq!(ops, ["elements of set `be4`", "elements of set `be4`"]);
}

#[test]
fn scaling_renews_one_chain_and_keeps_the_others() {
    let before = seen(&table(2, "10.0.1.5"));
    let wanted = table(3, "10.0.1.5");
    assert_eq!(
        names(&diff(&wanted, Some(&before))),
        ["FlushChain", "AddRule", "AddElements"]
    );
}

#[test]
fn tampering_is_repaired() {
    let wanted = table(2, "10.0.1.5");
    let mut before = seen(&wanted);
    before.chains.get_mut("nat-out").unwrap().rules.push(None);
    assert_eq!(
        names(&diff(&wanted, Some(&before))),
        ["FlushChain", "AddRule"]
    );
}

#[test]
fn what_is_not_wanted_goes_after_its_references() {
    let before = seen(&table(1, "10.0.1.5"));
    let mut wanted = table(1, "10.0.1.5");
    wanted.sets.clear();
    wanted.chains.remove(0);
    wanted.chains[0].rules.clear();
    assert_eq!(
        names(&diff(&wanted, Some(&before))),
        [
            "FlushChain",
            "DeleteElements",
            "DeleteElements",
            "FlushChain",
            "DeleteChain",
            "DeleteSet",
            "DeleteSet"
        ]
    );
}

#[test]
fn a_changed_hook_renews_the_table() {
    let before = seen(&table(1, "10.0.1.5"));
    let mut wanted = table(1, "10.0.1.5");
    wanted.chains[1].hook = Some(Hook::nat_prerouting());
    assert_eq!(
        names(&diff(&wanted, Some(&before)))[..2],
        ["DeleteTable", "AddTable"]
    );
}
