"""From files to batches: documents, sources, lengths, mixture, pack plan, packs.

Names load when they are first used, so that a worker which only reads documents never pays for
tokenizers or torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC_NAMES = {
    "DOCUMENT_SCHEMA": "documents",
    "Document": "documents",
    "DocumentError": "documents",
    "Image": "documents",
    "ImageSource": "documents",
    "Segment": "documents",
    "Text": "documents",
    "document_features": "documents",
    "image_source": "documents",
    "open_image_file": "documents",
    "from_caption": "converters",
    "from_llava": "converters",
    "from_messages": "converters",
    "from_mmc4": "converters",
    "from_obelics": "converters",
    "from_record": "converters",
    "from_text": "converters",
    "from_webdataset": "converters",
    "to_caption": "converters",
    "to_llava": "converters",
    "to_messages": "converters",
    "to_mmc4": "converters",
    "to_obelics": "converters",
    "DatasetSource": "sources",
    "JsonlSource": "sources",
    "MemorySource": "sources",
    "ParquetSource": "sources",
    "Source": "sources",
    "TarSource": "sources",
    "CleaningLimits": "cleaning",
    "CleaningReport": "cleaning",
    "ImageCounts": "cleaning",
    "WebDocumentCleaner": "cleaning",
    "EncodedDocument": "encoding",
    "encode": "encoding",
    "DocumentLengths": "lengths",
    "measure_lengths": "measuring",
    "measure_lengths_with_ray": "lengths_ray",
    "Mixture": "mixture",
    "PackPlan": "pack_plan",
    "plan_packs": "packing",
    "PackedDataset": "dataset",
    "MM1Collator": "collators",
    "BadDataError": "errors",
    "ErrorPolicy": "errors",
}

__all__ = [
    "DOCUMENT_SCHEMA",
    "BadDataError",
    "CleaningLimits",
    "CleaningReport",
    "DatasetSource",
    "Document",
    "DocumentError",
    "DocumentLengths",
    "EncodedDocument",
    "ErrorPolicy",
    "Image",
    "ImageCounts",
    "ImageSource",
    "JsonlSource",
    "MM1Collator",
    "MemorySource",
    "Mixture",
    "PackPlan",
    "PackedDataset",
    "ParquetSource",
    "Segment",
    "Source",
    "TarSource",
    "Text",
    "WebDocumentCleaner",
    "document_features",
    "encode",
    "from_caption",
    "from_llava",
    "from_messages",
    "from_mmc4",
    "from_obelics",
    "from_record",
    "from_text",
    "from_webdataset",
    "image_source",
    "measure_lengths",
    "measure_lengths_with_ray",
    "open_image_file",
    "plan_packs",
    "to_caption",
    "to_llava",
    "to_messages",
    "to_mmc4",
    "to_obelics",
]

if TYPE_CHECKING:
    from mm1_hf.data.cleaning import CleaningLimits, CleaningReport, ImageCounts, WebDocumentCleaner
    from mm1_hf.data.collators import MM1Collator
    from mm1_hf.data.converters import (
        from_caption,
        from_llava,
        from_messages,
        from_mmc4,
        from_obelics,
        from_record,
        from_text,
        from_webdataset,
        to_caption,
        to_llava,
        to_messages,
        to_mmc4,
        to_obelics,
    )
    from mm1_hf.data.dataset import PackedDataset
    from mm1_hf.data.documents import (
        DOCUMENT_SCHEMA,
        Document,
        DocumentError,
        Image,
        ImageSource,
        Segment,
        Text,
        document_features,
        image_source,
        open_image_file,
    )
    from mm1_hf.data.encoding import EncodedDocument, encode
    from mm1_hf.data.errors import BadDataError, ErrorPolicy
    from mm1_hf.data.lengths import DocumentLengths
    from mm1_hf.data.lengths_ray import measure_lengths_with_ray
    from mm1_hf.data.measuring import measure_lengths
    from mm1_hf.data.mixture import Mixture
    from mm1_hf.data.pack_plan import PackPlan
    from mm1_hf.data.packing import plan_packs
    from mm1_hf.data.sources import (
        DatasetSource,
        JsonlSource,
        MemorySource,
        ParquetSource,
        Source,
        TarSource,
    )


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
