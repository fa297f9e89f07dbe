"""Hypothesis strategies for everything that travels; test modules use the fixture `messages`."""

from hypothesis import strategies as st

from potluck.proto.step import Outcome, Outputs, Result, Run, Sampling, StageTime, Step, TokenScore

TOKENS = st.integers(0, 2**31 - 1)
NUMBERS = st.integers(1, 2**63 - 1)
SEQUENCES = st.integers(0, 2**63 - 1)
REALS = st.floats(-1e30, 1e30)
SHARES = st.floats(0, 1)
SAMPLINGS = st.builds(
    Sampling,
    seed=st.integers(-(2**63), 2**64 - 1),
    stream=SEQUENCES,
    temperature=st.floats(0, 1e30),
    top_k=TOKENS,
    top_p=SHARES,
    min_p=SHARES,
    repetition_penalty=st.floats(0, 1e30),
    presence_penalty=REALS,
    frequency_penalty=REALS,
    logit_bias=st.dictionaries(TOKENS, REALS, max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    prompt_tokens=TOKENS,
    banned=st.lists(TOKENS, max_size=3),
)
RUNS = st.builds(
    Run,
    sequence=SEQUENCES,
    position=TOKENS,
    tokens=st.lists(TOKENS, min_size=1, max_size=5),
    blocks=st.lists(TOKENS, max_size=3),
    outputs=st.sampled_from(Outputs),
    sampling=st.none() | SAMPLINGS,
    history=st.lists(TOKENS, max_size=3),
    follows=st.integers(-1, 2**31 - 1),
)
STEPS = st.builds(Step, number=NUMBERS, runs=st.lists(RUNS, max_size=3), dropped=st.lists(SEQUENCES, max_size=3))
PAIRS = st.tuples(TOKENS, st.floats(max_value=1e30, allow_nan=False))
SCORES = st.builds(TokenScore, logprob=st.floats(max_value=1e30, allow_nan=False), top=st.lists(PAIRS, max_size=3))
TIMES = st.builds(
    StageTime,
    node=st.text(max_size=20),
    stage=st.integers(0, 4096),
    wait=st.floats(0, 1e30),
    compute=st.floats(0, 1e30),
)
OUTCOMES = st.builds(
    Outcome,
    sequence=SEQUENCES,
    token=st.integers(-1, 2**31 - 1),
    accepted=st.integers(0, 100),
    score=st.none() | SCORES,
    prompt=st.lists(SCORES, max_size=2),
    error=st.text(max_size=20),
)
RESULTS = st.builds(Result, number=NUMBERS, outcomes=st.lists(OUTCOMES, max_size=3), times=st.lists(TIMES, max_size=3))
# Whatever msgpack can say, and a few spellings of "almost right".
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=40,
)
