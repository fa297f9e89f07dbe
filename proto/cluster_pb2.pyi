from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HelloRequest(_message.Message):
    __slots__ = ("protocol", "epoch")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    epoch: int
    def __init__(self, protocol: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("protocol", "node", "epochs", "version", "data_port")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_PORT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: str
    epochs: _containers.RepeatedScalarFieldContainer[int]
    version: str
    data_port: int
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[str] = ..., epochs: _Optional[_Iterable[int]] = ..., version: _Optional[str] = ..., data_port: _Optional[int] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("dtype",)
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    def __init__(self, dtype: _Optional[str] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("device", "device_name", "flops", "memory_bandwidth", "memory_free", "memory_total", "disk_bandwidth", "native_dtype")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DISK_BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    NATIVE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    device: str
    device_name: str
    flops: float
    memory_bandwidth: float
    memory_free: int
    memory_total: int
    disk_bandwidth: float
    native_dtype: str
    def __init__(self, device: _Optional[str] = ..., device_name: _Optional[str] = ..., flops: _Optional[float] = ..., memory_bandwidth: _Optional[float] = ..., memory_free: _Optional[int] = ..., memory_total: _Optional[int] = ..., disk_bandwidth: _Optional[float] = ..., native_dtype: _Optional[str] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("peer", "bulk_seconds", "trips_meanwhile")
    PEER_FIELD_NUMBER: _ClassVar[int]
    BULK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRIPS_MEANWHILE_FIELD_NUMBER: _ClassVar[int]
    peer: Peer
    bulk_seconds: float
    trips_meanwhile: bool
    def __init__(self, peer: _Optional[_Union[Peer, _Mapping]] = ..., bulk_seconds: _Optional[float] = ..., trips_meanwhile: _Optional[bool] = ...) -> None: ...

class LinkReport(_message.Message):
    __slots__ = ("failure", "bandwidth", "round_trip", "trip_bytes")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_FIELD_NUMBER: _ClassVar[int]
    TRIP_BYTES_FIELD_NUMBER: _ClassVar[int]
    failure: str
    bandwidth: float
    round_trip: float
    trip_bytes: int
    def __init__(self, failure: _Optional[str] = ..., bandwidth: _Optional[float] = ..., round_trip: _Optional[float] = ..., trip_bytes: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("node", "address", "data_port")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_PORT_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    data_port: int
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., data_port: _Optional[int] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("protocol", "epoch", "spec", "checkpoint", "fingerprint", "dtype", "windows", "kv_blocks", "block_size", "peers", "sources", "checkpoint_allowed", "max_rows", "stream_bytes")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    STREAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    epoch: int
    spec: bytes
    checkpoint: str
    fingerprint: str
    dtype: str
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    kv_blocks: int
    block_size: int
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    sources: _containers.RepeatedCompositeFieldContainer[Peer]
    checkpoint_allowed: bool
    max_rows: int
    stream_bytes: int
    def __init__(self, protocol: _Optional[int] = ..., epoch: _Optional[int] = ..., spec: _Optional[bytes] = ..., checkpoint: _Optional[str] = ..., fingerprint: _Optional[str] = ..., dtype: _Optional[str] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., kv_blocks: _Optional[int] = ..., block_size: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., checkpoint_allowed: _Optional[bool] = ..., max_rows: _Optional[int] = ..., stream_bytes: _Optional[int] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("stage", "embedding", "first_layer", "end_layer", "head", "next_nodes", "next_wants_sampled", "streamed", "group")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    END_LAYER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    NEXT_NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_WANTS_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    STREAMED_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    stage: int
    embedding: bool
    first_layer: int
    end_layer: int
    head: bool
    next_nodes: _containers.RepeatedScalarFieldContainer[str]
    next_wants_sampled: bool
    streamed: bool
    group: Group
    def __init__(self, stage: _Optional[int] = ..., embedding: _Optional[bool] = ..., first_layer: _Optional[int] = ..., end_layer: _Optional[int] = ..., head: _Optional[bool] = ..., next_nodes: _Optional[_Iterable[str]] = ..., next_wants_sampled: _Optional[bool] = ..., streamed: _Optional[bool] = ..., group: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("nodes", "first_head", "end_head", "first_column", "end_column", "first_rows", "end_rows", "wire", "reductions", "pieces")
    NODES_FIELD_NUMBER: _ClassVar[int]
    FIRST_HEAD_FIELD_NUMBER: _ClassVar[int]
    END_HEAD_FIELD_NUMBER: _ClassVar[int]
    FIRST_COLUMN_FIELD_NUMBER: _ClassVar[int]
    END_COLUMN_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROWS_FIELD_NUMBER: _ClassVar[int]
    END_ROWS_FIELD_NUMBER: _ClassVar[int]
    WIRE_FIELD_NUMBER: _ClassVar[int]
    REDUCTIONS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    first_head: int
    end_head: int
    first_column: int
    end_column: int
    first_rows: _containers.RepeatedScalarFieldContainer[int]
    end_rows: _containers.RepeatedScalarFieldContainer[int]
    wire: str
    reductions: _containers.RepeatedCompositeFieldContainer[Reduction]
    pieces: int
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., first_head: _Optional[int] = ..., end_head: _Optional[int] = ..., first_column: _Optional[int] = ..., end_column: _Optional[int] = ..., first_rows: _Optional[_Iterable[int]] = ..., end_rows: _Optional[_Iterable[int]] = ..., wire: _Optional[str] = ..., reductions: _Optional[_Iterable[_Union[Reduction, _Mapping]]] = ..., pieces: _Optional[int] = ...) -> None: ...

class Reduction(_message.Message):
    __slots__ = ("most_bytes", "algorithm")
    MOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    most_bytes: int
    algorithm: str
    def __init__(self, most_bytes: _Optional[int] = ..., algorithm: _Optional[str] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("bytes_done", "bytes_total", "activity", "ready", "weight_bytes", "kv_bytes")
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes_done: int
    bytes_total: int
    activity: str
    ready: bool
    weight_bytes: int
    kv_bytes: int
    def __init__(self, bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., activity: _Optional[str] = ..., ready: _Optional[bool] = ..., weight_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ...) -> None: ...

class ManifestRequest(_message.Message):
    __slots__ = ("fingerprint", "keys", "checkpoint")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    checkpoint: str
    def __init__(self, fingerprint: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class ManifestReply(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("key", "encoding", "shape", "nbytes", "transform", "heads", "blake3")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    BLAKE3_FIELD_NUMBER: _ClassVar[int]
    key: str
    encoding: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    nbytes: int
    transform: str
    heads: int
    blake3: bytes
    def __init__(self, key: _Optional[str] = ..., encoding: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., nbytes: _Optional[int] = ..., transform: _Optional[str] = ..., heads: _Optional[int] = ..., blake3: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("fingerprint", "key", "offset")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    key: str
    offset: int
    def __init__(self, fingerprint: _Optional[str] = ..., key: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    payload: bytes
    def __init__(self, header: _Optional[bytes] = ..., payload: _Optional[bytes] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("node", "epochs", "compute_seconds", "wait_seconds", "transfer_seconds", "steps", "rows", "links", "resident_bytes", "uptime_seconds", "stall_seconds", "streamed_bytes", "anonymous_bytes", "sums", "sum_seconds", "behind_seconds")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STREAMED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    SUM_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BEHIND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    epochs: _containers.RepeatedScalarFieldContainer[int]
    compute_seconds: float
    wait_seconds: float
    transfer_seconds: float
    steps: int
    rows: int
    links: _containers.RepeatedCompositeFieldContainer[LinkCount]
    resident_bytes: int
    uptime_seconds: float
    stall_seconds: float
    streamed_bytes: int
    anonymous_bytes: int
    sums: int
    sum_seconds: float
    behind_seconds: float
    def __init__(self, node: _Optional[str] = ..., epochs: _Optional[_Iterable[int]] = ..., compute_seconds: _Optional[float] = ..., wait_seconds: _Optional[float] = ..., transfer_seconds: _Optional[float] = ..., steps: _Optional[int] = ..., rows: _Optional[int] = ..., links: _Optional[_Iterable[_Union[LinkCount, _Mapping]]] = ..., resident_bytes: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., stall_seconds: _Optional[float] = ..., streamed_bytes: _Optional[int] = ..., anonymous_bytes: _Optional[int] = ..., sums: _Optional[int] = ..., sum_seconds: _Optional[float] = ..., behind_seconds: _Optional[float] = ...) -> None: ...

class LinkCount(_message.Message):
    __slots__ = ("node", "frames", "payload_bytes", "header_bytes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEADER_BYTES_FIELD_NUMBER: _ClassVar[int]
    node: str
    frames: int
    payload_bytes: int
    header_bytes: int
    def __init__(self, node: _Optional[str] = ..., frames: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., header_bytes: _Optional[int] = ...) -> None: ...
