//! Groups of shapes.

use std::collections::BTreeMap;

use augurs::DistanceMatrix;
use augurs::clustering::{DbscanCluster, DbscanClusterer};
use augurs::dtw::Dtw;

use super::{Method, Settings};

/// Shapes that are compared each with each: their distances take 18 MB.
pub(super) const EXACT_MAX: usize = 1_500;

/// The same for time warping, which takes a hundred times as long.
pub(super) const WARPED_MAX: usize = 200;

/// Patterns may be shifted by this part of their length.
const WARP_PART: usize = 10;

/// A group has the number of an earlier one if it has this part of the series of either.
const SAME_PART: usize = 2;

/// A group of shapes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// The one that is most like all others.
    pub(super) representative: usize,
    pub(super) members: Vec<usize>,
}

/// The groups of shapes whose mean is 0 and sum of squares 1. The first ones of more than can be
/// compared are those that are.
pub(super) fn groups(shapes: &[Vec<f64>], settings: &Settings) -> Vec<Group> {
    let warped = settings.method == Method::Dtw && shapes.len() <= WARPED_MAX;
    let compared = &shapes[..shapes.len().min(EXACT_MAX)];
    let distances: Vec<Vec<f64>> = if warped { warp(compared) } else { apart(compared) };
    let near = limit(settings.similarity);
    let Ok(matrix) = DistanceMatrix::try_from_square(distances) else { return Vec::new() };
    let found = DbscanClusterer::new(near, settings.size_min).fit(&matrix);
    let mut members: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (shape, cluster) in found.iter().enumerate() {
        if let DbscanCluster::Cluster(_) = cluster {
            members.entry(cluster.as_i32()).or_default().push(shape);
        }
    }
    let mut groups: Vec<Group> = members
        .into_values()
        .map(|members| {
            let all = |m: &usize| members.iter().map(|o| matrix[(*m, *o)]).sum::<f64>();
            let best = members.iter().map(|m| (all(m), *m));
            let best = best.min_by(|a, b| a.0.total_cmp(&b.0));
            Group { representative: best.map_or(0, |(_, m)| m), members }
        })
        .collect();
    // The others join the group that they are most like.
    for (shape, values) in shapes.iter().enumerate().skip(EXACT_MAX) {
        let each = groups.iter().map(|g| distance(values, &shapes[g.representative]));
        let nearest = each.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((group, _)) = nearest.filter(|(_, d)| *d <= near) {
            groups[group].members.push(shape);
        }
    }
    groups
}

/// The distance of two shapes whose correlation is so large.
fn limit(similarity: f64) -> f64 {
    (2.0 * (1.0 - similarity)).max(0.0).sqrt()
}

pub(super) fn correlation(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>().clamp(-1.0, 1.0)
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    limit(correlation(a, b))
}

fn apart(shapes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    symmetric(shapes, distance)
}

fn warp(shapes: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let window = shapes.first().map_or(1, |s| (s.len() / WARP_PART).max(1));
    let warped = Dtw::euclidean().with_window(window);
    symmetric(shapes, |a, b| warped.distance(a, b))
}

fn symmetric(shapes: &[Vec<f64>], distance: impl Fn(&[f64], &[f64]) -> f64) -> Vec<Vec<f64>> {
    let mut distances = vec![vec![0.0; shapes.len()]; shapes.len()];
    for (i, a) in shapes.iter().enumerate() {
        for (j, b) in shapes.iter().enumerate().skip(i + 1) {
            let apart = distance(a, b);
            distances[i][j] = apart;
            distances[j][i] = apart;
        }
    }
    distances
}

/// Numbers for groups: those of earlier groups with which they have most series in common, in
/// order of how many; else new ones from `next` on. `before` has the earlier number of each shape.
pub(super) fn numbers(groups: &[Group], before: &[Option<u64>], next: &mut u64) -> Vec<u64> {
    let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
    before.iter().flatten().for_each(|number| *sizes.entry(*number).or_default() += 1);
    let mut common: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    for (group, Group { members, .. }) in groups.iter().enumerate() {
        for number in members.iter().filter_map(|m| before[*m]) {
            *common.entry((group, number)).or_default() += 1;
        }
    }
    let mut common: Vec<(usize, u64, usize)> = common
        .into_iter()
        .filter(|((group, number), count)| {
            let least = groups[*group].members.len().min(sizes[number]);
            count * SAME_PART >= least
        })
        .map(|((group, number), count)| (count, number, group))
        .collect();
    // Most in common first, then the older number.
    common.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut numbers = vec![0; groups.len()];
    let mut taken = std::collections::BTreeSet::new();
    for (_, number, group) in common {
        if numbers[group] == 0 && taken.insert(number) {
            numbers[group] = number;
        }
    }
    for number in numbers.iter_mut().filter(|n| **n == 0) {
        *number = *next;
        *next += 1;
    }
    numbers
}
