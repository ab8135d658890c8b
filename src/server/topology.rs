//! Where CPUs lie: which of them are one physical core, share their last-level cache, or have their memory at
//! the same node.
//!
//! The kernel says so in sysfs (Documentation/admin-guide/cputopology.rst, ABI/stable/sysfs-devices-node). A
//! container may mask it, so nothing here fails: what is missing or makes no sense is not known, and CPUs of
//! which nothing is known keep the order of their numbers.

use std::collections::HashMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::steering::Distance;

/// Where the kernel says it.
pub(super) const SYSTEM: &str = "/sys/devices/system";

/// Where a CPU lies. Each number means something only beside that of another CPU; `None` is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The first CPU of the physical core.
    core: Option<usize>,
    /// The first CPU that shares the last-level cache.
    cache: Option<usize>,
    /// The NUMA node; without nodes, the socket.
    node: Option<usize>,
}

impl Place {
    /// Returns how far away another CPU is. A CPU of which nothing is known is at the same node.
    pub(super) fn distance(self, other: Self) -> Distance {
        if self.cache.is_some() && self.cache == other.cache {
            Distance::SameCache
        } else if self.node.zip(other.node).is_some_and(|(own, others)| own != others) {
            Distance::OtherNode
        } else {
            Distance::SameNode
        }
    }
}

/// Reads where these CPUs lie from `system`, which is [`SYSTEM`] but in tests.
pub(super) fn places(system: &Path, cpus: &[usize]) -> Vec<Place> {
    let nodes = nodes(system);
    let place = |cpu: &usize| {
        let folder = system.join(format!("cpu/cpu{cpu}"));
        let node = nodes.iter().find(|(_, cpus)| cpus.contains(*cpu)).map(|(node, _)| *node);
        Place {
            core: first_beside(*cpu, &folder.join("topology/core_cpus_list")),
            cache: last_level_cache(*cpu, &folder),
            node: node.or_else(|| number(&folder.join("topology/physical_package_id"))),
        }
    };
    cpus.iter().map(place).collect()
}

/// Returns `count` of the CPUs, by ascending number: different physical cores as long as there are any, and then
/// their siblings, of one node after the other.
pub(super) fn first_cores(count: usize, cpus: &[usize], places: &[Place]) -> Vec<usize> {
    let mut taken = physical_cores_first(cpus, places);
    taken.truncate(count);
    taken.sort_unstable();
    taken
}

/// Orders CPUs so that as many physical cores as possible come first, each with one CPU, and then their
/// siblings. Cores of one node, and of one cache in it, are neighbours, so that few of them lie together.
fn physical_cores_first(cpus: &[usize], places: &[Place]) -> Vec<usize> {
    let mut in_core: HashMap<usize, usize> = HashMap::new();
    let mut keyed: Vec<_> = cpus
        .iter()
        .zip(places)
        .map(|(cpu, place)| {
            let seen = in_core.entry(place.core.unwrap_or(*cpu)).or_default();
            let sibling = *seen;
            *seen += 1;
            (sibling, place.node, place.cache, *cpu)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(.., cpu)| cpu).collect()
}

/// Returns the NUMA nodes that have CPUs, by number.
fn nodes(system: &Path) -> Vec<(usize, Cpus)> {
    let entries = fs::read_dir(system.join("node")).into_iter().flatten().flatten();
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        Some((number, Cpus::read(&entry.path().join("cpulist"))?))
    };
    let mut nodes: Vec<_> = entries.filter_map(node).collect();
    nodes.sort_unstable_by_key(|(number, _)| *number);
    nodes
}

fn last_level_cache(cpu: usize, folder: &Path) -> Option<usize> {
    let entries = fs::read_dir(folder.join("cache")).ok()?.flatten().map(|entry| entry.path());
    let caches = entries.filter_map(|cache| {
        let level = number(&cache.join("level"))?;
        Some((level, first_beside(cpu, &cache.join("shared_cpu_list"))?))
    });
    caches.max_by_key(|(level, _)| *level).map(|(_, first)| first)
}

/// Returns the first CPU of a list that `cpu` is in.
fn first_beside(cpu: usize, list: &Path) -> Option<usize> {
    let cpus = Cpus::read(list).filter(|cpus| cpus.contains(cpu))?;
    cpus.0.iter().map(|range| *range.start()).min()
}

fn number(path: &Path) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// CPUs as the kernel lists them, `0-3,8`. Never expanded, because a range may be of any length.
struct Cpus(Vec<RangeInclusive<usize>>);

impl Cpus {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        text.trim().split(',').map(range).collect::<Option<_>>().map(Self)
    }

    fn contains(&self, cpu: usize) -> bool {
        self.0.iter().any(|range| range.contains(&cpu))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A machine as sysfs shows it.
    struct Machine(TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("it is in the folder")).expect("it is ours");
            fs::write(path, text).expect("it is ours");
        }

        /// A CPU with its siblings, those that share its last-level cache, and its socket.
        fn cpu(&self, cpu: usize, core: &str, cache: &str, socket: usize) {
            self.write(&format!("cpu/cpu{cpu}/topology/core_cpus_list"), &format!("{core}\n"));
            self.write(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{socket}\n"));
            for (index, level, shared) in [(0, 1, core), (1, 1, core), (2, 2, core), (3, 3, cache)] {
                self.write(&format!("cpu/cpu{cpu}/cache/index{index}/level"), &format!("{level}\n"));
                self.write(
                    &format!("cpu/cpu{cpu}/cache/index{index}/shared_cpu_list"),
                    &format!("{shared}\n"),
                );
            }
        }

        /// Two sockets, each a node of two caches of two cores of two threads, numbered as Linux mostly does: all
        /// first threads, then all second ones; 0-3 and 8-11 are of node 0.
        fn of_two_sockets() -> Self {
            let machine = Self::new();
            for cpu in 0..16 {
                let (core, pair) = (cpu % 8, cpu % 8 / 2 * 2);
                let cache = format!("{pair}-{},{}-{}", pair + 1, pair + 8, pair + 9);
                machine.cpu(cpu, &format!("{core},{}", core + 8), &cache, core / 4);
            }
            machine.write("node/node0/cpulist", "0-3,8-11\n");
            machine.write("node/node1/cpulist", "4-7,12-15\n");
            machine.write("node/possible", "0-1\n");
            machine
        }

        fn order(&self, cpus: impl IntoIterator<Item = usize>) -> Vec<usize> {
            let cpus: Vec<_> = cpus.into_iter().collect();
            physical_cores_first(&cpus, &places(self.0.path(), &cpus))
        }
    }

    #[test]
    fn one_cpu_of_each_core_comes_first_and_one_node_after_the_other() {
        let machine = Machine::of_two_sockets();
        assert_eq!(machine.order(0..16), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        // CPUs 1 and 9, and 4 and 12, are siblings; 8 and 10 are the only ones of their cores.
        assert_eq!(machine.order([1, 3, 4, 5, 8, 9, 10, 12]), [1, 8, 3, 10, 4, 5, 9, 12]);
    }

    #[test]
    fn siblings_with_neighbouring_numbers_come_last_too() {
        let machine = Machine::new();
        (0..8).for_each(|cpu| machine.cpu(cpu, &format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1), "0-7", 0));
        assert_eq!(machine.order(0..8), [0, 2, 4, 6, 1, 3, 5, 7]);
    }

    #[test]
    fn taken_cpus_ascend() {
        let machine = Machine::of_two_sockets();
        let cpus = [1, 3, 4, 5, 8, 9, 10, 12];
        let places = places(machine.0.path(), &cpus);
        assert_eq!(first_cores(4, &cpus, &places), [1, 3, 8, 10]);
        assert_eq!(first_cores(7, &cpus, &places), [1, 3, 4, 5, 8, 9, 10]);
    }

    #[test]
    fn cores_of_a_cache_and_of_a_node_lie_together() {
        let machine = Machine::new();
        // Odd CPUs are of the second node, and every other CPU of a node is of its second cache.
        for cpu in 0..8 {
            let caches = ["0,4", "1,5", "2,6", "3,7"];
            machine.cpu(cpu, &cpu.to_string(), caches[cpu % 4], 0);
        }
        machine.write("node/node0/cpulist", "0,2,4,6\n");
        machine.write("node/node1/cpulist", "1,3,5,7\n");
        assert_eq!(machine.order(0..8), [0, 4, 2, 6, 1, 5, 3, 7]);
    }

    #[test]
    fn distance_is_by_cache_and_then_by_node() {
        let machine = Machine::of_two_sockets();
        let places = places(machine.0.path(), &(0..16).collect::<Vec<_>>());
        let near: Vec<_> = places.iter().map(|other| places[0].distance(*other)).collect();
        for (cpu, distance) in near.into_iter().enumerate() {
            let expected = match cpu % 8 {
                0 | 1 => Distance::SameCache,
                2 | 3 => Distance::SameNode,
                _ => Distance::OtherNode,
            };
            assert_eq!(distance, expected, "CPU {cpu}");
        }
    }

    #[test]
    fn sockets_stand_for_nodes_where_there_are_none() {
        let machine = Machine::new();
        (0..4).for_each(|cpu| machine.cpu(cpu, &cpu.to_string(), &cpu.to_string(), cpu % 2));
        assert_eq!(machine.order(0..4), [0, 2, 1, 3]);
    }

    #[test]
    fn cpus_keep_their_order_where_nothing_is_known() {
        let machine = Machine::new();
        assert_eq!(machine.order([2, 3, 7]), [2, 3, 7]);
        let places = places(machine.0.path(), &[2, 3]);
        assert_eq!(places[0].distance(places[1]), Distance::SameNode);
        // Lists that their own CPU is not in, that end before they begin, and no numbers.
        for nonsense in ["", "\n", "9", "3-1", "0-", "-", ",", "0-x", "0-99999999999999999999", "-1", "\u{0}"]
        {
            (0..3).for_each(|cpu| machine.cpu(cpu, nonsense, nonsense, 0));
            machine.write("node/node0/cpulist", nonsense);
            machine.write("node/nodes/cpulist", nonsense);
            assert_eq!(machine.order(0..3), [0, 1, 2], "{nonsense:?}");
        }
        machine.cpu(0, "0-18446744073709551615", "0-18446744073709551615", 0);
        machine.cpu(1, "0-18446744073709551615", "0-18446744073709551615", 0);
        assert_eq!(machine.order(0..3), [2, 0, 1], "a range of any length");
    }

    #[test]
    fn this_machine_says_where_its_cpus_lie() {
        let cpus: Vec<_> = core_affinity::get_core_ids().expect("CPUs").iter().map(|core| core.id).collect();
        let mut ordered = physical_cores_first(&cpus, &places(Path::new(SYSTEM), &cpus));
        ordered.sort_unstable();
        assert_eq!(ordered, cpus);
    }

    proptest! {
        #[test]
        fn as_many_cores_as_possible_come_first(
            cores in prop::collection::vec((0_usize..6, 0_usize..3, 0_usize..2), 1..40),
        ) {
            let cpus: Vec<_> = (0..cores.len()).collect();
            let places: Vec<_> = cores
                .iter()
                .map(|(core, cache, node)| Place { core: Some(*core), cache: Some(*cache), node: Some(*node) })
                .collect();
            let ordered = physical_cores_first(&cpus, &places);
            let distinct = |cpus: &[usize]| {
                cpus.iter().map(|cpu| places[*cpu].core).collect::<std::collections::HashSet<_>>().len()
            };
            let all = distinct(&cpus);
            prop_assert_eq!(distinct(&ordered[..all]), all);
            let mut sorted = ordered;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, cpus);
        }
    }
}
