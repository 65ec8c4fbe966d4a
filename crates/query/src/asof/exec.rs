//! The as-of join as an operator: both sides partitioned by the keys and sorted by keys and time.

use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::error::Result as EngineResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::merge::{Merge, Side};
use super::node::{AsOf, Direction};

/// DataFusion's planner with the as-of join.
#[derive(Debug)]
pub(crate) struct Planner;

#[async_trait]
impl datafusion::execution::context::QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(AsOfPlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}

struct AsOfPlanner;

#[async_trait]
impl ExtensionPlanner for AsOfPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> EngineResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<AsOf>() else { return Ok(None) };
        let ([left, right], [left_plan, right_plan]) = (logical_inputs, physical_inputs) else {
            return Err(DataFusionError::Internal("an as-of join has two inputs".to_owned()));
        };
        let physical = |expressions: &[Expr], schema: &DFSchema| -> EngineResult<Vec<Arc<dyn PhysicalExpr>>> {
            let one = |expression: &Expr| planner.create_physical_expr(expression, schema, session, context);
            expressions.iter().map(one).collect()
        };
        let (left_expressions, right_expressions) = node.sides();
        let terms = Terms {
            left: physical(left_expressions, left.schema())?,
            right: physical(right_expressions, right.schema())?,
            key_count: node.key_count,
            direction: node.direction,
            keeps_all: node.join_type == JoinType::Left,
            schema: Arc::clone(node.schema.inner()),
        };
        Ok(Some(Arc::new(AsOfExec::new(Arc::new(terms), Arc::clone(left_plan), Arc::clone(right_plan))?)))
    }
}

/// What both sides are joined by.
#[derive(Debug)]
struct Terms {
    /// Keys and time.
    left: Vec<Arc<dyn PhysicalExpr>>,
    /// Keys and time, and what decides between rows of one time.
    right: Vec<Arc<dyn PhysicalExpr>>,
    key_count: usize,
    direction: Direction,
    /// Whether rows of the left without a match stay.
    keeps_all: bool,
    schema: SchemaRef,
}

impl Terms {
    /// How values are ordered, by their place.
    fn options(&self, place: usize) -> SortOptions {
        // Looked for at later times, the nearest is the last before when time runs backwards.
        SortOptions { descending: place == self.key_count && !self.direction.is_backward, nulls_first: true }
    }

    fn ordering(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> EngineResult<LexOrdering> {
        let sorted = expressions
            .iter()
            .enumerate()
            .map(|(place, expression)| PhysicalSortExpr { expr: Arc::clone(expression), options: self.options(place) });
        LexOrdering::new(sorted).ok_or_else(|| DataFusionError::Internal("an as-of join without a time".to_owned()))
    }
}

#[derive(Debug)]
struct AsOfExec {
    terms: Arc<Terms>,
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    orderings: [LexOrdering; 2],
    properties: Arc<PlanProperties>,
}

impl AsOfExec {
    fn new(terms: Arc<Terms>, left: Arc<dyn ExecutionPlan>, right: Arc<dyn ExecutionPlan>) -> EngineResult<Self> {
        let partitions = left.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&terms.schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let orderings = [terms.ordering(&terms.left)?, terms.ordering(&terms.right)?];
        Ok(Self { terms, left, right, orderings, properties: Arc::new(properties) })
    }

    /// Whether rows of one key meet in one partition. Zeros of both signs are one key, and may be in two.
    fn is_partitioned(&self) -> bool {
        let is_float = |key: &Arc<dyn PhysicalExpr>| {
            key.data_type(&self.left.schema()).is_ok_and(|kind| kind.is_floating() || kind.is_nested())
        };
        self.terms.key_count > 0 && !self.terms.left[..self.terms.key_count].iter().any(is_float)
    }
}

impl DisplayAs for AsOfExec {
    fn fmt_as(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Terms { left, right, key_count, direction, keeps_all, .. } = &*self.terms;
        write!(formatter, "AsOfJoinExec: {}", if *keeps_all { "Left" } else { "Inner" })?;
        for (place, (one, other)) in left.iter().zip(right).enumerate() {
            let operator = if place == *key_count { direction.operator() } else { "=" };
            write!(formatter, ", {one} {operator} {other}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for AsOfExec {
    fn name(&self) -> &str {
        "AsOfJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> EngineResult<TreeNodeRecursion>,
    ) -> EngineResult<TreeNodeRecursion> {
        for expression in self.terms.left.iter().chain(&self.terms.right) {
            if visit(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop(), children.is_empty()) {
            (Some(right), Some(left), true) => Ok(Arc::new(Self::new(Arc::clone(&self.terms), left, right)?)),
            _ => Err(DataFusionError::Internal("an as-of join has two inputs".to_owned())),
        }
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        if !self.is_partitioned() {
            return InputDistributionRequirements::new(vec![Distribution::SinglePartition; 2]);
        }
        let keys = |expressions: &[Arc<dyn PhysicalExpr>]| {
            Distribution::KeyPartitioned(expressions[..self.terms.key_count].to_vec())
        };
        InputDistributionRequirements::co_partitioned(vec![keys(&self.terms.left), keys(&self.terms.right)])
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.orderings.iter().map(|ordering| Some(OrderingRequirements::from(ordering.clone()))).collect()
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> EngineResult<SendableRecordBatchStream> {
        let counts = [&self.left, &self.right].map(|side| side.output_partitioning().partition_count());
        if counts[0] != counts[1] {
            return Err(DataFusionError::Internal(format!("as-of join of {} and {} partitions", counts[0], counts[1])));
        }
        let count = self.terms.key_count;
        let side = |plan: &Arc<dyn ExecutionPlan>, expressions: &[Arc<dyn PhysicalExpr>]| -> EngineResult<Side> {
            let stream = plan.execute(partition, Arc::clone(&context))?;
            Ok(Side::new(stream, expressions[..=count].to_vec()))
        };
        let kinds = self.terms.left[..=count].iter().map(|key| key.data_type(&self.left.schema()));
        let options = (0..=count).map(|place| self.terms.options(place));
        Merge::stream(
            Arc::clone(&self.terms.schema),
            (side(&self.left, &self.terms.left)?, side(&self.right, &self.terms.right)?),
            kinds.collect::<EngineResult<Vec<_>>>()?.into_iter().zip(options).collect(),
            self.terms.direction.is_strict,
            self.terms.keeps_all,
        )
    }
}
