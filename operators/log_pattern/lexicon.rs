//! Words of English log lines and what they are; a table that is asked for each word of a line. It
//! is about the language, and knows no system that logs.

use std::sync::LazyLock;

/// A noun that the name of such a thing follows.
pub(super) const NAMES: u16 = 1;
/// A preposition that a name may follow.
pub(super) const PREPOSITION: u16 = 2;
/// Function words, verbs, states: wording wherever they stand.
pub(super) const GRAMMAR: u16 = 4;
/// A noun that is wording behind a preposition.
pub(super) const NOUN: u16 = 8;
/// A unit of time or size: belongs to the number before it.
pub(super) const UNIT: u16 = 16;
/// A day of the week.
pub(super) const DAY: u16 = 32;
/// A month.
pub(super) const MONTH: u16 = 64;
/// A time zone, or a half of the day.
pub(super) const ZONE: u16 = 128;
/// Stands for a value: `true`, `null`.
pub(super) const LITERAL: u16 = 256;
/// Ends names of hosts, and no names in programs.
pub(super) const TOP_LEVEL: u16 = 512;

const LISTS: [(u16, &str); 10] = [
    (NAMES, NAME_WORDS),
    (PREPOSITION, PREPOSITION_WORDS),
    (GRAMMAR, GRAMMAR_WORDS),
    (NOUN, NOUN_WORDS),
    (UNIT, UNIT_WORDS),
    (DAY, "mon tue wed thu fri sat sun"),
    (MONTH, "jan feb mar apr may jun jul aug sep oct nov dec"),
    (ZONE, ZONE_WORDS),
    (LITERAL, "true false null nil none nan undefined n/a"),
    (TOP_LEVEL, TOP_LEVEL_WORDS),
];

const NAME_WORDS: &str = "\
    user username login account uid group host hostname realm domain named pod container \
    namespace topic queue table database schema bucket interface device unit client peer role \
    tenant principal class";

const PREPOSITION_WORDS: &str = "\
    for from by to at on of with in into via as through";

const GRAMMAR_WORDS: &str = "\
    a an the this that these those it its no not none any all each every some more most too \
    only and or but nor if then else than so as is are was were be been being am do does did \
    done has have had can could will would shall should may might must cannot for from by to \
    at on of with in into via through over under about after before during until while when \
    where why how which what who whom whose since because due per without within between among \
    against across along near above below out off up down again already now still yet never \
    always here there also just very once get got set put run ran go went gone come came make \
    made take took taken give gave given send sent receive read write wrote written find found \
    keep kept lose lost leave left begin began begun end start stop open close create delete \
    remove add update insert select drop fail pass try retry skip wait use used need allow \
    deny accept reject refuse ignore expect exceed connect disconnect load unload save restore \
    restart reload resume suspend abort cancel commit finish complete change check verify \
    build register request respond reply allocate assign release free lock unlock mount \
    unmount shut reset hit die died kill exit timeout timed available unavailable unable able \
    active inactive valid invalid missing present absent empty full ready busy idle enabled \
    disabled online offline alive dead unknown known illegal bad good ok okay new old high low \
    fatal critical same other another different own successful unsuccessful success failure \
    error warning denied forbidden permitted true false yes null local remote public private \
    internal external normal abnormal reached possible impossible many much few first last \
    next previous";

const NOUN_WORDS: &str = "\
    access action address agent alarm alert allocation api app application argument array \
    attempt attribute authentication backup bit block board body boot boundary break buffer \
    bug bus byte bytes cache call callback card cause certificate channel check child children \
    chip chunk class cleanup client clock cluster code command component config configuration \
    connection console content context control controller core count counter cpu crash \
    credentials data database date day days debug default definition delay depth descriptor \
    destination detail device dimension direction directory disk document domain driver \
    duration edge element endpoint engine entry environment event exception execution \
    expression failover feature field file files filesystem filter flag flow folder form \
    format frame frequency function garbage gateway group handle handler hardware hash head \
    header health heap heartbeat history hook host hour hours id identifier image index info \
    information initialization input instance instruction interface interrupt interval io item \
    job journal kernel key keyboard keys label language launch layer leader lease length level \
    library limit line link list listener location log login loop machine main map mapping \
    mask master matches max maximum measure memory message messages metadata method methods \
    metric metrics min minimum minute minutes mode model module monitor mount mutex name names \
    network node nodes number object offset operation operator option options order origin \
    output owner package packet packets page pages panic parameter parent parity partition \
    partner password path pattern payload peer performance period permission phase pipe \
    pipeline platform plugin point policy pool port position power priority problem process \
    processor profile program progress property protocol provider proxy query queue quota race \
    range rate reason receiver recipient record records recovery reference region register \
    registry replica replication report reports repository reset resource resources response \
    result results retention rights role route router row rows rule run sample scale schedule \
    scheduler schema scope screen script second seconds secret section sector security segment \
    sender sensor sequence series server service services session sessions settings shape \
    shard share shutdown side signal size slave sleep slot snapshot socket software source \
    space spec speed stack stage standby startup state statement station statistics status \
    step storage store stream streams string structure subnet subscription suite support swap \
    switch symbol syntax system table tag target task tasks temperature template terminal \
    thread threads threshold throughput ticket time timer times timestamp token tokens tool \
    topic total trace traffic transaction transfer transition tree trigger tunnel type types \
    unit units update upgrade upstream usage user users utility validation value values vector \
    vendor version view violation volume wake warning watchdog web window windows wire word \
    work worker workers workspace world zone";

const UNIT_WORDS: &str = "\
    ns us ms s sec secs second seconds msec msecs usec millis millisecond milliseconds \
    microseconds nanoseconds min mins minute minutes h hr hrs hour hours day days b kb mb gb \
    tb kib mib gib tib k m g";

const ZONE_WORDS: &str = "\
    utc gmt z cet cest est edt cst cdt mst mdt pst pdt jst bst ist am pm";

const TOP_LEVEL_WORDS: &str = "\
    com net org edu gov mil int info biz io dev app cloud local localdomain lan internal arpa \
    eu de uk fr it es nl ch at pl ru cn jp hk tw kr in br mx ar ca au us se";

/// Slots of the table: a power of two, about three times the words.
const SLOTS: usize = 4096;

/// Longest word of the lists and then some: longer ones are in none.
const WORD_MAX: usize = 20;

/// Hash and flags of each word at its place or behind it; flags 0 is a free slot.
static WORDS: LazyLock<Vec<(u64, u16)>> = LazyLock::new(|| {
    let mut slots = vec![(0, 0); SLOTS];
    for (flag, list) in LISTS {
        for word in list.split_ascii_whitespace() {
            let hash = hash(word.as_bytes());
            let slot = place(&slots, hash);
            slots[slot].0 = hash;
            slots[slot].1 |= flag;
        }
    }
    slots
});

/// Of the small letters. Two words of one hash would share their flags, which a test excludes.
fn hash(word: &[u8]) -> u64 {
    word.iter().fold(0, |h: u64, &b| {
        (h.rotate_left(5) ^ u64::from(b | 0x20)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// Where the word of this hash is, or would be.
fn place(slots: &[(u64, u16)], hash: u64) -> usize {
    let mut at = (hash >> 52) as usize % SLOTS;
    while slots[at].1 != 0 && slots[at].0 != hash {
        at = (at + 1) % SLOTS;
    }
    at
}

/// What `word` is, in capital or small letters: none, one or more of the constants above.
pub(super) fn flags(word: &[u8]) -> u16 {
    if word.len() > WORD_MAX {
        return 0;
    }
    let slots = &**WORDS;
    slots[place(slots, hash(word))].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_words_have_one_hash() {
        let mut words: Vec<&str> =
            LISTS.iter().flat_map(|(_, list)| list.split_ascii_whitespace()).collect();
        words.sort_unstable();
        words.dedup();
        let mut hashes: Vec<u64> = words.iter().map(|word| hash(word.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), words.len());
        assert!(words.len() * 2 < SLOTS);
        assert!(words.iter().all(|word| word.len() <= WORD_MAX));
    }
}
