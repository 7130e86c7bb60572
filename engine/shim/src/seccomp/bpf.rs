//! Turns decisions per system call into a program the kernel runs at each call.
//!
//! One section per architecture: a binary search over system call numbers whose
//! leaves are verdicts or, where arguments matter, short lists of comparisons. The
//! numbers alone decide most calls, so the kernel caches those verdicts.

use std::collections::BTreeMap;

/// One instruction, as the kernel lays it out.
pub use libc::sock_filter as Instruction;

/// What to do with a call: a `SECCOMP_RET_*` value.
pub type Verdict = u32;

/// Longest program the kernel takes.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// All rules for one architecture.
pub struct Section {
    /// The `AUDIT_ARCH_*` number.
    pub audit: u32,
    /// Rules by system call number, in order; the first that applies decides.
    pub calls: BTreeMap<u32, Vec<Rule>>,
    /// Verdict for calls without a rule that applies.
    pub default: Verdict,
    /// Verdict for numbers above the highest with a rule: calls newer than the
    /// profile, which programs probe for.
    pub unknown: Verdict,
}

/// A verdict that holds when all comparisons do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub comparisons: Vec<Comparison>,
    pub verdict: Verdict,
}

/// One argument against a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Which argument, 0 to 5.
    pub argument: u8,
    pub operator: Operator,
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of the mask.
    MaskedEqual {
        mask: u64,
    },
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_NOT_LESS: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in the kernel's `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The whole program. Calls from an architecture without a section end the process.
pub fn assemble(sections: &[Section]) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for section in sections {
        let body = section_body(section);
        program.push(jump_if(JUMP_EQUAL, section.audit, 1, 0));
        program.push(jump(body.len()));
        program.extend(body);
    }
    program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

fn section_body(section: &Section) -> Vec<Instruction> {
    let mut leaves = intervals(section);
    leaves.dedup_by(|next, previous| next.1 == previous.1);
    let mut body = vec![load(NUMBER)];
    body.extend(search(&leaves));
    body
}

/// What to do from a number on, until the next entry's number.
fn intervals(section: &Section) -> Vec<(u32, Vec<Rule>)> {
    let fallback = |verdict| {
        vec![Rule {
            comparisons: Vec::new(),
            verdict,
        }]
    };
    let mut leaves: Vec<(u32, Vec<Rule>)> = Vec::new();
    let mut next = 0;
    for (&number, rules) in &section.calls {
        if number > next {
            leaves.push((next, fallback(section.default)));
        }
        // What follows an unconditional rule can never apply.
        let reached = rules
            .iter()
            .position(|rule| rule.comparisons.is_empty())
            .map_or(rules.len(), |last| last + 1);
        let mut rules = rules[..reached].to_vec();
        if rules.last().is_none_or(|rule| !rule.comparisons.is_empty()) {
            rules.extend(fallback(section.default));
        }
        leaves.push((number, rules));
        next = number + 1;
    }
    leaves.push((next, fallback(section.unknown)));
    leaves
}

fn search(leaves: &[(u32, Vec<Rule>)]) -> Vec<Instruction> {
    if let [(_, rules)] = leaves {
        return rules.iter().flat_map(checked).collect();
    }
    let (below, above) = leaves.split_at(leaves.len() / 2);
    let left = search(below);
    let mut program = match u8::try_from(left.len()) {
        Ok(skip) => vec![jump_if(JUMP_NOT_LESS, above[0].0, skip, 0)],
        Err(_) => vec![jump_if(JUMP_NOT_LESS, above[0].0, 0, 1), jump(left.len())],
    };
    program.extend(left);
    program.extend(search(above));
    program
}

/// A rule that gives its verdict or falls through to what follows it.
fn checked(rule: &Rule) -> Vec<Instruction> {
    // Built backwards: each comparison must know how far the end is.
    let mut program = vec![give(rule.verdict)];
    for comparison in rule.comparisons.iter().rev() {
        let mut with = compare(comparison, program.len());
        with.extend(program);
        program = with;
    }
    program
}

/// Goes on with the next instruction if the comparison holds, else skips `rest`
/// instructions beyond this comparison.
fn compare(comparison: &Comparison, rest: usize) -> Vec<Instruction> {
    let offset = ARGUMENTS + 8 * u32::from(comparison.argument);
    let (low_at, high_at) = if cfg!(target_endian = "little") {
        (offset, offset + 4)
    } else {
        (offset + 4, offset)
    };
    let low = comparison.value as u32;
    let high = (comparison.value >> 32) as u32;
    // At most six comparisons of seven instructions follow.
    let out = u8::try_from(rest).expect("a rule has at most six comparisons");
    match comparison.operator {
        Operator::Equal => vec![
            load(high_at),
            jump_if(JUMP_EQUAL, high, 0, out + 2),
            load(low_at),
            jump_if(JUMP_EQUAL, low, 0, out),
        ],
        Operator::NotEqual => vec![
            load(high_at),
            jump_if(JUMP_EQUAL, high, 0, 2),
            load(low_at),
            jump_if(JUMP_EQUAL, low, out, 0),
        ],
        Operator::MaskedEqual { mask } => vec![
            load(high_at),
            and((mask >> 32) as u32),
            jump_if(JUMP_EQUAL, high & (mask >> 32) as u32, 0, out + 3),
            load(low_at),
            and(mask as u32),
            jump_if(JUMP_EQUAL, low & mask as u32, 0, out),
        ],
        // Greater: the high words decide unless they are equal.
        Operator::Greater => vec![
            load(high_at),
            jump_if(JUMP_GREATER, high, 3, 0),
            jump_if(JUMP_EQUAL, high, 0, out + 2),
            load(low_at),
            jump_if(JUMP_GREATER, low, 0, out),
        ],
        Operator::GreaterOrEqual => vec![
            load(high_at),
            jump_if(JUMP_GREATER, high, 3, 0),
            jump_if(JUMP_EQUAL, high, 0, out + 2),
            load(low_at),
            jump_if(JUMP_NOT_LESS, low, 0, out),
        ],
        Operator::Less => vec![
            load(high_at),
            jump_if(JUMP_GREATER, high, out + 3, 0),
            jump_if(JUMP_EQUAL, high, 0, 2),
            load(low_at),
            jump_if(JUMP_NOT_LESS, low, out, 0),
        ],
        Operator::LessOrEqual => vec![
            load(high_at),
            jump_if(JUMP_GREATER, high, out + 3, 0),
            jump_if(JUMP_EQUAL, high, 0, 2),
            load(low_at),
            jump_if(JUMP_GREATER, low, out, 0),
        ],
    }
}

fn load(offset: u32) -> Instruction {
    instruction(LOAD, offset, 0, 0)
}

fn and(mask: u32) -> Instruction {
    instruction(AND, mask, 0, 0)
}

fn jump(over: usize) -> Instruction {
    let over = u32::try_from(over).expect("programs are short");
    instruction(JUMP, over, 0, 0)
}

fn jump_if(code: u16, value: u32, then: u8, otherwise: u8) -> Instruction {
    instruction(code, value, then, otherwise)
}

fn give(verdict: Verdict) -> Instruction {
    instruction(RETURN, verdict, 0, 0)
}

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Runs a program as the kernel would, for tests.
#[cfg(test)]
pub fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> Verdict {
    let word = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => audit,
        offset => {
            let argument = arguments[((offset - ARGUMENTS) / 8) as usize];
            if (offset - ARGUMENTS).is_multiple_of(8) {
                argument as u32
            } else {
                (argument >> 32) as u32
            }
        }
    };
    let (mut at, mut value) = (0, 0);
    loop {
        let step = program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            LOAD => value = word(step.k),
            AND => value &= step.k,
            JUMP => at += step.k as usize,
            JUMP_EQUAL => at += branch(value == step.k),
            JUMP_GREATER => at += branch(value > step.k),
            JUMP_NOT_LESS => at += branch(value >= step.k),
            RETURN => return step.k,
            code => panic!("unexpected instruction {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ARCH: u32 = 0xc000_003e;

    fn program_for(comparison: Comparison) -> Vec<Instruction> {
        let rule = Rule {
            comparisons: vec![comparison],
            verdict: 1,
        };
        assemble(&[Section {
            audit: ARCH,
            calls: BTreeMap::from([(7, vec![rule])]),
            default: 0,
            unknown: 2,
        }])
    }

    fn interesting() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0_u64..4,
            Just(u64::MAX),
            (0_u64..3).prop_map(|low| 1 << 32 | low),
        ]
    }

    proptest! {
        #[test]
        fn comparisons_of_64_bits_are_right(value in interesting(), given in interesting(), mask in any::<u64>()) {
            let cases = [
                (Operator::Equal, given == value),
                (Operator::NotEqual, given != value),
                (Operator::Less, given < value),
                (Operator::LessOrEqual, given <= value),
                (Operator::Greater, given > value),
                (Operator::GreaterOrEqual, given >= value),
                (Operator::MaskedEqual { mask }, given & mask == value & mask),
            ];
            for (operator, holds) in cases {
                let program = program_for(Comparison { argument: 2, operator, value });
                let verdict = run(&program, ARCH, 7, [0, 0, given, 0, 0, 0]);
                prop_assert_eq!(verdict, u32::from(holds), "{:?}", operator);
            }
        }

        #[test]
        fn search_finds_every_number(numbers in proptest::collection::btree_set(0_u32..600, 0..400)) {
            let calls = numbers.iter().map(|&number| {
                (number, vec![Rule { comparisons: Vec::new(), verdict: 1000 + number }])
            }).collect();
            let program = assemble(&[Section { audit: ARCH, calls, default: 1, unknown: 2 }]);
            let last = numbers.last().copied();
            for number in 0..700 {
                let expected = if numbers.contains(&number) {
                    1000 + number
                } else if last.is_some_and(|last| number < last) {
                    1
                } else {
                    2
                };
                prop_assert_eq!(run(&program, ARCH, number, [0; 6]), expected);
            }
        }
    }

    #[test]
    fn a_foreign_architecture_ends_the_process() {
        let program = program_for(Comparison {
            argument: 0,
            operator: Operator::Equal,
            value: 0,
        });
        assert_eq!(run(&program, 1, 7, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
