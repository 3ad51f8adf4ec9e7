import collections
import itertools
import json

import pytest
import torch

import partnas
from partnas.errors import PartnasError
from partnas.genotype import Edge, Genotype, edge_count
from partnas.space import OPERATIONS, SearchSpace

GENOTYPE = Genotype(
    normal=((Edge("sep_conv_3x3", 0), Edge("skip_connect", 1)), (Edge("dil_conv_3x3", 0), Edge("max_pool_3x3", 2))),
    reduction=((Edge("max_pool_3x3", 0), Edge("sep_conv_5x5", 1)), (Edge("avg_pool_3x3", 2),)),
    fusion=((Edge("dil_conv_5x5", 1),),),
)


def test_round_trips():
    assert Genotype.from_json(GENOTYPE.to_json()) == GENOTYPE
    assert Genotype.from_dict(GENOTYPE.to_dict()) == GENOTYPE
    assert Genotype.from_dict(json.loads(json.dumps(GENOTYPE.to_dict()))) == GENOTYPE
    assert json.loads(GENOTYPE.to_json()) == json.loads(json.dumps(GENOTYPE.to_dict()))


def test_files(tmp_path):
    path = tmp_path / "genotype.json"
    GENOTYPE.save(path)
    assert Genotype.load(path) == Genotype.from_json(path) == Genotype.from_json(str(path)) == GENOTYPE


def test_json_is_for_people_one_node_a_line():
    assert (
        GENOTYPE.to_json()
        == """{
  "format": "partnas.genotype",
  "version": 1,
  "normal": [
    [["sep_conv_3x3", 0], ["skip_connect", 1]],
    [["dil_conv_3x3", 0], ["max_pool_3x3", 2]]
  ],
  "reduction": [
    [["max_pool_3x3", 0], ["sep_conv_5x5", 1]],
    [["avg_pool_3x3", 2]]
  ],
  "fusion": [
    [["dil_conv_5x5", 1]]
  ]
}
"""
    )


def test_lists_are_taken_as_tuples():
    made = Genotype(
        normal=[[["sep_conv_3x3", 0], ["skip_connect", 1]], [["dil_conv_3x3", 0], ["max_pool_3x3", 2]]],
        reduction=[[["max_pool_3x3", 0], ["sep_conv_5x5", 1]], [["avg_pool_3x3", 2]]],
        fusion=[[["dil_conv_5x5", 1]]],
    )
    assert made == GENOTYPE
    assert hash(made) == hash(GENOTYPE)
    assert made.normal[0][0].operation == "sep_conv_3x3"


def broken(**changes):
    return {**json.loads(GENOTYPE.to_json()), **changes}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "format: not 'partnas.genotype'; give a genotype.json"),
        (None, "format: not 'partnas.genotype'; give"),
        (broken(format="other"), "format: not 'partnas.genotype'; give"),
        (broken(version=2), "version: 2 is not known; this program reads 1"),
        ({k: v for k, v in broken().items() if k != "version"}, "version: None is not known"),
        ({k: v for k, v in broken().items() if k != "fusion"}, "field 'fusion' is missing; add the list of its nodes"),
        (broken(normal=None), "normal: not a list of nodes; write one list of edges for each node"),
        (broken(normal=[]), "normal: not a list of nodes; write"),
        (broken(normal="sep"), "normal: not a list of nodes; write"),
        (broken(reduction=[[]]), "reduction: node 0: no list of edges; write at least one"),
        (broken(reduction=[3]), "reduction: node 0: no list of edges; write"),
        (broken(reduction=["ab"]), "reduction: node 0: no list of edges; write"),
        (broken(fusion=[["skip_connect", 0]]), "fusion: node 0: 'skip_connect' is not an edge; write it as"),
        (broken(fusion=[[["skip_connect"]]]), "fusion: node 0: .* is not an edge; write it as"),
        (
            broken(fusion=[[["conv_9x9", 0]]]),
            "fusion: node 0: operation 'conv_9x9' is none that .*; use one of max_pool",
        ),
        (broken(fusion=[[["none", 0]]]), "fusion: node 0: operation 'none' is none that .*; use one of max_pool"),
        (broken(fusion=[[[None, 0]]]), "fusion: node 0: operation None is none that"),
        (broken(fusion=[[[["none"], 0]]]), "fusion: node 0: operation .* is none that"),
        (broken(fusion=[[["skip_connect", 2]]]), "fusion: node 0: impossible edge from source 2; .* are 0 to 1"),
        (
            broken(normal=[[["skip_connect", 0]], [["skip_connect", 3]]]),
            "normal: node 1: impossible edge from source 3; sources of this node are 0 to 2",
        ),
        (broken(fusion=[[["skip_connect", -1]]]), "fusion: node 0: impossible edge from source -1"),
        (broken(fusion=[[["skip_connect", "1"]]]), "fusion: node 0: impossible edge from source '1'"),
        (broken(fusion=[[["skip_connect", 1.0]]]), "fusion: node 0: impossible edge from source 1.0"),
        (broken(fusion=[[["skip_connect", True]]]), "fusion: node 0: impossible edge from source True"),
        (
            broken(fusion=[[["skip_connect", 1], ["sep_conv_3x3", 1]]]),
            "fusion: node 0: two edges from source 1; keep one of them",
        ),
    ],
)
def test_a_broken_genotype_is_one_line_that_names_the_field_and_the_fix(values, message, tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(values))
    for where, call in ((str(path), lambda: Genotype.load(path)), ("x", lambda: Genotype.from_dict(values, "x"))):
        with pytest.raises(PartnasError, match=message) as error:
            call()
        assert str(error.value).startswith(f"{where}: ")
        assert "\n" not in str(error.value)
        assert ";" in str(error.value)


def test_a_genotype_written_in_python_is_checked_too():
    with pytest.raises(PartnasError, match=r"^genotype: normal: node 0: impossible edge"):
        Genotype(normal=[[("skip_connect", 2)]], reduction=GENOTYPE.reduction, fusion=GENOTYPE.fusion)


def test_unreadable_files(tmp_path):
    with pytest.raises(PartnasError, match=r"missing.json: no such file; give a genotype.json"):
        Genotype.load(tmp_path / "missing.json")
    with pytest.raises(PartnasError, match=r"cannot be read \(Is a directory\); give"):
        Genotype.load(tmp_path)
    path = tmp_path / "genotype.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PartnasError, match=r"genotype.json: cannot be read \(not text\)"):
        Genotype.load(path)
    path.write_text('{\n "format": "partnas.genotype",\n')
    with pytest.raises(PartnasError, match=r"genotype.json: line 3: not JSON; mend the syntax"):
        Genotype.load(path)
    with pytest.raises(PartnasError, match=r"^genotype: line 1: not JSON"):
        Genotype.from_json("{,}")


def naive_cell(alphas, nodes, operations):
    """Section 3.1 of the paper, one edge after the other."""
    row, cell = 0, []
    for node in range(nodes):
        edges = []
        for source in range(2 + node):
            weights = [float(w) for w in torch.softmax(alphas[row].double(), 0)]
            strength, best = 0.0, None
            for name, weight in zip(operations, weights, strict=True):
                if name != "none" and weight > strength:
                    strength, best = weight, name
            edges.append((strength, source, best))
            row += 1
        kept = []
        while edges and len(kept) < 2:
            strongest = edges[0]
            for edge in edges[1:]:
                if edge[0] > strongest[0]:
                    strongest = edge
            edges.remove(strongest)
            kept.append(strongest)
        cell.append(tuple((name, source) for _, source, name in sorted(kept, key=lambda edge: edge[1])))
    assert row == len(alphas)
    return tuple(cell)


SUBSET = ("dil_conv_5x5", "none", "skip_connect")


@pytest.mark.parametrize("operations", [OPERATIONS, SUBSET, ("max_pool_3x3",)])
@pytest.mark.parametrize("fusion_nodes", [1, 2, 3, 5])
def test_derivation_agrees_with_the_naive_one(operations, fusion_nodes):
    space = SearchSpace(operations=operations, fusion_nodes=fusion_nodes)
    nodes = {"normal": 4, "reduction": 4, "fusion": fusion_nodes}
    generator = torch.Generator().manual_seed(fusion_nodes)
    for _ in range(30):
        alphas = {
            kind: 2 * torch.randn(edge_count(count), len(operations), generator=generator)
            for kind, count in nodes.items()
        }
        genotype = Genotype.from_alphas(alphas, space)
        genotype.check(space)
        for kind, count in nodes.items():
            assert getattr(genotype, kind) == naive_cell(alphas[kind], count, operations)


def test_none_is_never_chosen_but_weakens_its_edge():
    space = SearchSpace(operations=("none", "skip_connect", "sep_conv_3x3"), nodes=2, fusion_nodes=1)
    # Node 1: edge 0 has the largest alphas, but `none` takes nearly all of its softmax.
    cell = torch.tensor([[9.0, 0, 1], [9.0, 2, 1], [9.0, 3, 4], [0.0, 1, 2], [0.0, 2, 1]])
    genotype = Genotype.from_alphas({"normal": cell, "reduction": cell, "fusion": cell[:2]}, space)
    assert genotype.normal == ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("sep_conv_3x3", 1), ("skip_connect", 2)))
    assert genotype.fusion == ((("sep_conv_3x3", 0), ("skip_connect", 1)),)


def test_of_equals_the_first_stays():
    space = SearchSpace(nodes=3, fusion_nodes=2)
    zeros = {"normal": torch.zeros(9, 8), "reduction": torch.zeros(9, 8), "fusion": torch.zeros(5, 8)}
    node = (("max_pool_3x3", 0), ("max_pool_3x3", 1))
    assert Genotype.from_alphas(zeros, space) == Genotype((node,) * 3, (node,) * 3, (node,) * 2)


def test_derivation_leaves_the_alphas_alone():
    space = SearchSpace()
    alphas = {"normal": torch.randn(14, 8), "reduction": torch.randn(14, 8), "fusion": torch.randn(5, 8)}
    parameters = {kind: torch.nn.Parameter(value.clone()) for kind, value in alphas.items()}
    assert Genotype.from_alphas(parameters, space) == Genotype.from_alphas(alphas, space)
    for kind, value in alphas.items():
        assert torch.equal(parameters[kind], value)
        assert parameters[kind].grad is None


@pytest.mark.parametrize("fusion_nodes", [1, 2, 3, 4, 5])
def test_random_genotypes_are_valid(fusion_nodes):
    space = SearchSpace(fusion_nodes=fusion_nodes, nodes=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        genotype = Genotype.random(space, generator)
        genotype.check(space)
        assert Genotype.from_json(genotype.to_json()) == genotype
        for cell in (genotype.normal, genotype.reduction, genotype.fusion):
            for node in cell:
                assert len(node) == 2
                assert node[0].source < node[1].source


def test_random_genotypes_are_seeded_and_take_operations_of_the_space():
    space = SearchSpace(operations=SUBSET)
    first, again = (Genotype.random(space, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
    drawn = {edge.operation for _ in range(20) for node in Genotype.random(space).normal for edge in node}
    assert drawn == {"dil_conv_5x5", "skip_connect"}


def test_random_genotypes_are_uniform():
    space = SearchSpace(nodes=2)
    generator = torch.Generator().manual_seed(0)
    count = 4000
    sources, operations = collections.Counter(), collections.Counter()
    for _ in range(count):
        node = Genotype.random(space, generator).normal[1]
        sources[tuple(edge.source for edge in node)] += 1
        operations.update(edge.operation for edge in node)
    pairs = list(itertools.combinations(range(3), 2))
    for found, kinds, draws in ((sources, pairs, count), (operations, OPERATIONS[1:], 2 * count)):
        assert set(found) == set(kinds)
        expected = draws / len(kinds)
        for value in found.values():
            assert abs(value - expected) < 5 * expected**0.5


def test_check_names_the_field_to_set():
    space = SearchSpace()
    with pytest.raises(
        PartnasError, match=r"^my.json: normal: 2 nodes where the network has 4; set nodes to 2 or give"
    ):
        GENOTYPE.check(space, "my.json")
    with pytest.raises(PartnasError, match=r"^genotype: fusion: 1 nodes .* set fusion_nodes to 1 or give another"):
        GENOTYPE.check(space.replace(nodes=2))
    GENOTYPE.check(space.replace(nodes=2, fusion_nodes=1))


def test_edges_of_a_cell():
    assert [edge_count(nodes) for nodes in range(1, 6)] == [2, 5, 9, 14, 20]


def test_the_package_shows_the_genotype():
    assert partnas.Genotype is Genotype
    assert partnas.Edge is Edge
