//! Chunks of entities on disk: a Parquet file each, with one row per entity: id, fingerprint,
//! sort key, a column per attribute, and `weir.exact` where the columns do not tell all.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, FixedSizeBinaryBuilder, RecordBatch, UInt32Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use hashbrown::HashMap;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use weir_pipeline::entity::{Attribute, Entity, Value, build_column};
use weir_pipeline::signal::COLUMNS_MAX;

use super::chunk::{CHUNK_VERSION, ChunkFile, ChunkMeta, EntityChunk};
use super::codec::{decode_entity, encode_entity, sort_key};
use crate::cache::next_id;
use crate::disk::{CrcFile, Written, verify};
use crate::error::{Result, StoreError};
use crate::file::FileColumn;
use crate::normalise::widen_array;
use crate::types::ColumnType;

/// Names that start so are the store's own; an attribute of such a name stands in `weir.exact`.
const OWN: &str = "weir.";
const ID: &str = "weir.id";
const FINGERPRINT: &str = "weir.fingerprint";
const SORT_KEY: &str = "weir.sort_key";
const EXACT: &str = "weir.exact";
/// Entities written at a time, which bounds the memory that writing takes.
const PIECE: usize = 16 << 10;

/// What all entities of a chunk have under one name.
#[derive(Clone)]
struct Shape {
    kind: ColumnType,
    json: bool,
    origin: &'static str,
    count: usize,
}

impl Shape {
    fn fits(&self, a: &Attribute) -> bool {
        let same = a.value.data_type() == self.kind.at_rest();
        let json = matches!(a.value, Value::Json(_));
        same && json == self.json && a.origin.as_str() == self.origin
    }
}

/// The columns of a chunk, and whether some name has none.
fn shapes(entities: &[Arc<Entity>]) -> (HashMap<Arc<str>, Shape>, bool) {
    let mut shapes: HashMap<Arc<str>, Shape> = HashMap::new();
    let mut own = false;
    for entity in entities {
        for a in entity.attributes() {
            if a.name.starts_with(OWN) {
                own = true;
                continue;
            }
            let kind = ColumnType::of_value(&a.value).unwrap_or(ColumnType::Text);
            match shapes.get_mut(&a.name) {
                Some(shape) => {
                    shape.kind = shape.kind.widen(kind);
                    shape.count += 1;
                }
                None => {
                    let json = matches!(a.value, Value::Json(_));
                    let origin = a.origin.as_str();
                    shapes.insert(a.name.clone(), Shape { kind, json, origin, count: 1 });
                }
            }
        }
    }
    let many = shapes.len() > COLUMNS_MAX;
    if many {
        let mut counts: Vec<_> = shapes.iter().map(|(n, s)| (s.count, n.clone())).collect();
        counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, name) in counts.drain(COLUMNS_MAX..) {
            shapes.remove(&name);
        }
    }
    (shapes, many || own)
}

/// Writes `entities`, whose ids start at `first`, to a new file, fsynced and read back.
pub(crate) fn write_chunk(
    folder: &Path,
    name: &str,
    first: u32,
    entities: &[Arc<Entity>],
) -> Result<ChunkMeta> {
    write_keyed(folder, name, first, entities, |i| sort_key(&entities[i]))
}

/// As [`write_chunk`], where the sort key of each entity is at hand.
pub(super) fn write_keyed<K: AsRef<[u8]>>(
    folder: &Path,
    name: &str,
    first: u32,
    entities: &[Arc<Entity>],
    sort_key: impl Fn(usize) -> K,
) -> Result<ChunkMeta> {
    let written = write_to(folder, name, first, entities, &sort_key);
    if written.is_err() {
        std::fs::remove_file(folder.join(name)).ok();
    }
    written
}

fn write_to<K: AsRef<[u8]>>(
    folder: &Path,
    name: &str,
    first: u32,
    entities: &[Arc<Entity>],
    sort_key: &impl Fn(usize) -> K,
) -> Result<ChunkMeta> {
    let (shapes, more) = shapes(entities);
    let mut columns: Vec<FileColumn> = shapes
        .iter()
        .map(|(name, s)| FileColumn {
            name: name.clone(),
            kind: s.kind,
            json: s.json,
            origin: Some(s.origin.into()),
        })
        .collect();
    columns.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut fields = vec![
        Field::new(ID, DataType::UInt32, false),
        Field::new(FINGERPRINT, DataType::FixedSizeBinary(16), false),
        Field::new(SORT_KEY, DataType::Binary, false),
    ];
    fields.extend(columns.iter().map(FileColumn::field));
    fields.push(Field::new(EXACT, DataType::Binary, true));
    let schema = Arc::new(Schema::new(fields));
    let path = folder.join(name);
    let file = CrcFile::create(&path)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()))?;
    for (i, piece) in entities.chunks(PIECE).enumerate() {
        let start = i * PIECE;
        let keys = BinaryArray::from_iter_values((start..start + piece.len()).map(sort_key));
        let start = first + start as u32;
        writer.write(&piece_batch(&schema, &columns, &shapes, start, piece, keys)?)?;
        writer.flush()?;
    }
    let Written { bytes, crc } = writer.into_inner()?.finish()?;
    verify(&path, bytes, crc)?;
    Ok(ChunkMeta {
        file: name.into(),
        first,
        entities: entities.len() as u32,
        bytes,
        crc,
        columns: columns.into(),
        more,
        version: CHUNK_VERSION,
    })
}

fn properties() -> WriterProperties {
    let column = |name: &str| ColumnPath::new(vec![name.to_owned()]);
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_dictionary_enabled(column(ID), false)
        .set_column_encoding(column(ID), Encoding::DELTA_BINARY_PACKED)
        .set_column_dictionary_enabled(column(FINGERPRINT), false)
        .set_column_dictionary_enabled(column(SORT_KEY), false)
        .set_column_encoding(column(SORT_KEY), Encoding::DELTA_BYTE_ARRAY)
        .set_column_dictionary_enabled(column(EXACT), false)
        .build()
}

fn piece_batch(
    schema: &Arc<Schema>,
    columns: &[FileColumn],
    shapes: &HashMap<Arc<str>, Shape>,
    first: u32,
    entities: &[Arc<Entity>],
    sort_keys: BinaryArray,
) -> Result<RecordBatch> {
    let ids = UInt32Array::from_iter_values(first..first + entities.len() as u32);
    let mut fingerprints = FixedSizeBinaryBuilder::with_capacity(entities.len(), 16);
    for e in entities {
        fingerprints.append_value(e.fingerprint().to_be_bytes())?;
    }
    let mut arrays: Vec<ArrayRef> =
        vec![Arc::new(ids), Arc::new(fingerprints.finish()), Arc::new(sort_keys)];
    for (column, present) in columns.iter().zip(present(columns, entities)) {
        let mut values = vec![None; entities.len()];
        present.into_iter().for_each(|(at, value)| values[at] = Some(value));
        let values = build_column(values.iter().copied()).values;
        arrays.push(widen_array(&values, column.kind)?);
    }
    let exact = entities.iter().map(|e| {
        let fits = |a: &Attribute| shapes.get(&a.name).is_some_and(|s| s.fits(a));
        (!e.attributes().iter().all(fits)).then(|| {
            let mut bytes = Vec::new();
            encode_entity(e, &mut bytes);
            bytes
        })
    });
    arrays.push(Arc::new(exact.collect::<BinaryArray>()));
    Ok(RecordBatch::try_new(schema.clone(), arrays)?)
}

/// Who has a value of each column. Most have few of them, so that to ask each for all costs more.
fn present<'e>(
    columns: &[FileColumn],
    entities: &'e [Arc<Entity>],
) -> Vec<Vec<(usize, &'e Value)>> {
    let places: HashMap<&str, usize> =
        columns.iter().enumerate().map(|(i, c)| (&*c.name, i)).collect();
    let mut present = vec![Vec::new(); columns.len()];
    for (at, entity) in entities.iter().enumerate() {
        for a in entity.attributes() {
            if let Some(place) = places.get(&*a.name) {
                present[*place].push((at, &a.value));
            }
        }
    }
    present
}

/// Reads a chunk.
pub(crate) fn read_chunk(file: &ChunkFile) -> Result<EntityChunk> {
    let path = &file.path;
    verify(path, file.meta.bytes, file.meta.crc)?;
    let open = std::fs::File::open(path).map_err(StoreError::io("cannot open", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(open)?;
    let schema = builder.schema().clone();
    let batches = builder.with_batch_size(PIECE).build()?.collect::<Result<Vec<_>, _>>()?;
    let all = concat_batches(&schema, &batches)?;
    let damaged = |why: &str| StoreError::damaged(path, why);
    if all.num_rows() != file.meta.entities as usize {
        return Err(damaged("it holds another number of entities than the manifest says"));
    }
    let bytes_column =
        |name| all.column_by_name(name).ok_or_else(|| damaged("a column is missing"));
    let fingerprints = bytes_column(FINGERPRINT)?
        .as_fixed_size_binary_opt()
        .ok_or_else(|| damaged("fingerprints have the wrong type"))?;
    let fingerprints = (0..all.num_rows())
        .map(|i| fingerprints.value(i).try_into().map(u128::from_be_bytes))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| damaged("fingerprints have the wrong length"))?;
    let keys = bytes_column(SORT_KEY)?
        .as_binary_opt::<i32>()
        .ok_or_else(|| damaged("sort keys have the wrong type"))?;
    let sort_keys = keys.iter().map(|k| k.unwrap_or_default().into()).collect();
    let mut exact = HashMap::new();
    if let Some(column) = bytes_column(EXACT)?.as_binary_opt::<i32>() {
        for (i, bytes) in column.iter().enumerate() {
            let Some(mut bytes) = bytes else { continue };
            let entity =
                decode_entity(&mut bytes).ok_or_else(|| damaged("an entity is unreadable"))?;
            exact.insert(i as u32, Arc::new(entity));
        }
    }
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = schema
        .fields()
        .iter()
        .zip(all.columns())
        .filter(|(f, _)| !f.name().starts_with(OWN))
        .map(|(f, a)| (f.clone(), a.clone()))
        .collect();
    columns.sort_by(|a, b| a.0.name().cmp(b.0.name()));
    Ok(EntityChunk {
        id: next_id(),
        first: file.meta.first,
        fingerprints,
        sort_keys,
        columns,
        exact,
    })
}
