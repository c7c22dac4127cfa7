"""The app as a server of the Model Context Protocol, through the protocol's own client."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

import admodels
from demo.app import build, launch


@pytest.fixture
def address(home, monkeypatch):
    monkeypatch.setenv("ADMODELS_MCP", "1")
    demo = build()
    _, url, _ = launch(demo, prevent_thread_lock=True, server_port=None, quiet=True)
    yield f"{url}gradio_api/mcp/"
    demo.close()


def talk(address, conversation):
    async def run():
        async with streamablehttp_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return await conversation(session)

    with ThreadPoolExecutor(1) as elsewhere:  # the browser of other tests keeps an event loop in this thread
        return elsewhere.submit(lambda: asyncio.run(run())).result()


def test_endpoints_are_tools_with_described_parameters(address, isvd):
    async def conversation(session):
        tools = {tool.name.removeprefix("app_"): tool for tool in (await session.list_tools()).tools}
        loaded = await session.call_tool(tools["load_model"].name, {"name": "for-tools"})
        listed = await session.call_tool(tools["list_models"].name, {})
        wrong = await session.call_tool(tools["load_model"].name, {"name": "nowhere"})
        return tools, loaded, listed, wrong

    admodels.save(isvd, "for-tools", overwrite=True)
    tools, loaded, listed, wrong = talk(address, conversation)
    assert {"fit", "inspect", "score", "evaluate", "evaluation_report", "search_hub", "pull", "push"} <= set(tools)
    assert "Learn from good pictures" in tools["fit"].description
    for name, tool in tools.items():
        assert tool.description, name
        for parameter, schema in tool.inputSchema["properties"].items():
            assert schema.get("description"), f"{name}: {parameter}"
            assert {"type", "anyOf", "$ref", "enum"} & set(schema), f"{name}: {parameter} has no type"
    assert not loaded.isError
    assert "for-tools" in listed.content[0].text
    assert wrong.isError
    assert "no model named 'nowhere'" in wrong.content[0].text
    admodels.delete("for-tools")


def test_it_is_refused_where_visitors_share_a_server(monkeypatch):
    monkeypatch.setenv("ADMODELS_MCP", "1")
    monkeypatch.setenv("ADMODELS_SHARED", "1")
    with pytest.raises(admodels.OptionError, match="all callers of that protocol would see each other's"):
        launch(build(), prevent_thread_lock=True, quiet=True)
