"""Live metrics of agents, under the names that users of ``utils.analytics_pipeline`` know."""

from tallyroll._api import get_agent_performance_metrics, get_analytics_engine, get_system_performance_dashboard
from tallyroll.analytics.anomalies.known import AnomalyAlert, AnomalyDetector
from tallyroll.analytics.profile import AgentPerformance, SystemPerformance
from tallyroll.analytics.query import AnalyticsEngine
from tallyroll.analytics.query import AnalyticsEngine as AgentAnalyticsEngine
from tallyroll.analytics.query import AnalyticsEngine as OptimizedAnalyticsEngine
from tallyroll.analytics.records import Metric, MetricType, PerformanceProfile
from tallyroll.analytics.spec import AggregationFunction
from tallyroll.analytics.time_series import TimeSeries
from tallyroll.analytics.time_series import TimeSeries as OptimizedTimeSeries
from tallyroll.analytics.windows import TimeWindow

__all__ = [
    "AgentAnalyticsEngine",
    "AgentPerformance",
    "AggregationFunction",
    "AnalyticsEngine",
    "AnomalyAlert",
    "AnomalyDetector",
    "Metric",
    "MetricType",
    "OptimizedAnalyticsEngine",
    "OptimizedTimeSeries",
    "PerformanceProfile",
    "SystemPerformance",
    "TimeSeries",
    "TimeWindow",
    "get_agent_performance_metrics",
    "get_analytics_engine",
    "get_system_performance_dashboard",
]
